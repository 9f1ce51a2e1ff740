"""Curation with provenance: the licence, the tier, the site and the wishes behind each document of a data set."""
