"""The parts of scripts/bench_quant.py: encoders, whole conversions, and the quality of every type."""
