"""The recipes that `hf-mixture train NAME` finds; installed as the package `hf_mixture.recipes`."""
