"""Runs of `hf-mixture trajectories`: latent classes of growth curves, and of training runs."""
