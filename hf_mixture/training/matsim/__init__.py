"""Runs of `hf-mixture matsim`: encoders of materials trained in several ways, beside features of colour."""
