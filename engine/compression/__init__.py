"""Measure what a smaller model has lost, make one smaller, and teach it again. No HTTP, no printing."""
