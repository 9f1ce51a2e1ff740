"""Systems of expert-parallel training, by name."""
