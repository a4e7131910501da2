"""Measuring a model on a text."""
