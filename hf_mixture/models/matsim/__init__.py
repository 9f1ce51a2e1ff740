"""MatSim: one-shot similarity of materials from images with masks, arXiv 2212.00648."""
