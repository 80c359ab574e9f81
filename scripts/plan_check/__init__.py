"""What `qwenctl plan` says, held against llama.cpp's own accounting and against the clock."""
