"""The text that a person at a terminal sees and types."""
