"""Readers of configurations that several architectures share: keys of config.json to plain numbers."""
