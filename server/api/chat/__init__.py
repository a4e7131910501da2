"""Chat completions, as OpenAI defines them."""
