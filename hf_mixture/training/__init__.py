"""The main job: a recipe in YAML, run by the stock Trainer on a mixture of domains."""
