"""Models on disk: found, fetched, verified."""
