"""The pieces of bench_serve.py: servers beside ours, the load they get, and what is made of the answers."""
