"""One file per model_type; the file's name is the model_type."""
