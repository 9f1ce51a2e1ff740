"""Runs of `hf-mixture spread`: a sparse model trained on one process and spread over several, side by side."""
