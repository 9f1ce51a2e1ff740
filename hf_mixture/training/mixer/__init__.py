"""Runs of `hf-mixture mixer`: mixtures of expert dynamics beside a single expert, on simulated trajectories."""
