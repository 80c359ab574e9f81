"""The parts of scripts/bench_pull.py."""
