"""A model's reply taken apart: reasoning, content and tool calls. Pure text; knows no tokens and no HTTP."""
