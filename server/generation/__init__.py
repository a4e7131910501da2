"""Prompts of token ids to deltas of text, and the grammars that constrain them."""
