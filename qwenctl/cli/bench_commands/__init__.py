"""The subcommands of `qwenctl bench`."""
