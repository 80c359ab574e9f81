"""The commands below `qwenctl models`, one a file."""
