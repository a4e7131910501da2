"""The Decisions API: questions answered with probabilities of labels."""
