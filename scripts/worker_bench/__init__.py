"""What scripts/bench_worker.py is made of."""
