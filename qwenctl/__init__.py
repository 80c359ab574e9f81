"""qwenctl: convert Hugging Face checkpoints to 4-bit GGUF and run them on the hardware at hand.

Importing this package imports nothing heavy: `qwenctl --help` must answer in under 0.2 s.
"""

__version__ = "0.1.0"
