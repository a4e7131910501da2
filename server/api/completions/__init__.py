"""Completions of plain prompts, as OpenAI defines them."""
