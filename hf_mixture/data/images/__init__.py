"""Image data sets that need no download: drawn from a seed, or read from an installed package."""
"""Image data sets that need no download, as builders of datasets: drawn from a seed, or read from a package."""
