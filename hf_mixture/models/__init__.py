"""Mixtures of models: one folder for each model type."""
