"""Mixture of Thoughts: frozen language models of different families that answer together."""
