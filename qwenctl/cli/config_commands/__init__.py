"""The commands below `qwenctl config`, one a file."""
