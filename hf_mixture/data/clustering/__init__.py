"""Clustering that repeats itself: Probabilistic Partitive Partitioning (PPP, arXiv 2003.04372)."""
