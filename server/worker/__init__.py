"""The child process that computes (`__main__.py`), and the parent's handle on it."""
