"""Computed prompts kept on disk: keys, files, the folder, what is worth keeping, and the engine's end of it."""
