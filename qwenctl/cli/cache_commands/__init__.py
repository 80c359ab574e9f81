"""The commands below `qwenctl cache`, one a file."""
