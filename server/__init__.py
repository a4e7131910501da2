"""The HTTP server around the engine. The parent process never imports mlx; only `server.worker` does."""
