"""MixER: a mixture of meta-learned expert dynamics, with a gate of K-means and least squares."""
