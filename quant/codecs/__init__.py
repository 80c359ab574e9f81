"""Codecs: weights to the bytes of a tensor type and back, two functions on arrays of rows."""
