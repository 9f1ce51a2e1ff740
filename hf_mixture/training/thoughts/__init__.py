"""The recipe of `hf-mixture thoughts`: several small experts, a mixture of their thoughts, and its controls."""
