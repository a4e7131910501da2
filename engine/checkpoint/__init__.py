"""A model on disk: configuration, tensors and tokenizer files, checked before use."""
