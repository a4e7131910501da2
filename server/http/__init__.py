"""The wire below the APIs: middleware, limits of connections, envelopes of errors."""
