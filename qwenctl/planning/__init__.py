"""What fits a machine, how fast it will be, and how to run it: pure functions of values."""
