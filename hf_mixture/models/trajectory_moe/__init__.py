"""Trajectory mixture of experts: latent classes of growth curves with individual times, arXiv 2007.02432."""
