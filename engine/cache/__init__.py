"""Live keys and values of the running sequences."""
