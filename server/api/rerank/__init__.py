"""Reranking and scores of pairs of texts."""
