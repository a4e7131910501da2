"""Counts, times and state of the running server."""
