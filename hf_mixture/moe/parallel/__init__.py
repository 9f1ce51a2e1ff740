"""Sparse models over many processes: who holds what, who talks to whom, and what that costs."""
