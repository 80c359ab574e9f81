"""How fast a model is here and a server there: what `qwenctl bench` and scripts/bench_serve.py measure with."""
