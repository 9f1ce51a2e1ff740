"""`hf-mixture curate`: a curation, and a small model trained on its tiers."""
