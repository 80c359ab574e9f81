"""The parts of scripts/bench_offload.py: one file a concern."""
