"""Attention over the keys and values of a batch."""
