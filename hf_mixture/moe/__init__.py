"""Mixtures of experts inside one sparse model: anatomy, routers, expert edits, traces."""
