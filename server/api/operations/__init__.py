"""Health, metrics and status of the server."""
