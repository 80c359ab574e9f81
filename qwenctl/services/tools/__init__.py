"""Tools that a model may call: how it writes calls, how calls are forced, how they are run."""
