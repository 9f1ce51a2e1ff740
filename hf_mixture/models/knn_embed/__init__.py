"""kNN-Embed: users as smoothed mixtures over clusters of items, for candidate retrieval."""
