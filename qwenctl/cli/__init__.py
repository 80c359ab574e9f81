"""The command line: one command a file. Parses, calls one service, prints."""
