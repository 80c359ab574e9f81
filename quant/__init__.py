"""Formats, codecs, recipes and conversion of language-model checkpoints.

Stands alone: never imports `qwenctl`, torch, transformers or pickle.
"""
