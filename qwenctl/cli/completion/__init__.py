"""Completion scripts for shells: what can be completed, as values, and one file a shell that writes it down."""
