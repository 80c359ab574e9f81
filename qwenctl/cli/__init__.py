"""The command line: one command a file; parse, call one service, print. Nothing below imports from here."""
