"""Models that read texts and give vectors or scores."""
