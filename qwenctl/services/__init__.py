"""What a user wants done, one service a file; no terminal, no Click."""
