"""The commands below `qwenctl sessions`, one a file."""
