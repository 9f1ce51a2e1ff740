"""Recipes of D2MoE: a sparse model trained, quantised to nested planes, and run with experts on disk."""
