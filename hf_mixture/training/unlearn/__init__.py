"""Runs of `hf-mixture unlearn`: recommenders that forget, beside retraining and simpler ways, on the same requests."""
