"""Tokens without an answer: tokenize, detokenize, estimate."""
