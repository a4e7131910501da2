"""The models that are served, and which of them are in memory."""
