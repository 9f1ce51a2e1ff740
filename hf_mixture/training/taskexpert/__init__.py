"""Runs of `hf-mixture taskexpert`: gates that see the image beside constant gates and a trunk without experts."""
