"""From a JSON schema to a grammar that holds a model to it, and the check of what came out."""
