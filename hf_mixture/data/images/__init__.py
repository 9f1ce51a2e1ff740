"""Image data sets that need no download: drawn from a seed, or read from an installed package."""
