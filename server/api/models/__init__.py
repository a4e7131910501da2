"""The list of models, and loading and unloading them."""
