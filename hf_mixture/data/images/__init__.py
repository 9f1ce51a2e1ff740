"""Image data sets that need no download, as builders of datasets: drawn from a seed, or read from a package."""
