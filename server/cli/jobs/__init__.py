"""The long work of commands: writing, measuring and training models."""
