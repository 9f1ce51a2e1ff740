"""Runs of `hf-mixture retrieve`: kNN-Embed beside one vector, popularity, neighbourhood methods and factorisation."""
