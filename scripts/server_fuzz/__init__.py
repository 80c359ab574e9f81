"""Parts of fuzz_server.py and soak_server.py."""
