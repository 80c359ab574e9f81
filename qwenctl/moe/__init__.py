"""Mixture-of-Experts offloading: where experts are, what to load, run it. Knows nothing of text, chats or requests."""
