"""The hub of models: what is there, and how it gets here whole."""
