"""Runs of `hf-mixture plan --recipe`: the best mappings of several models, beside published ones."""
