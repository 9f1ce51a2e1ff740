"""Online mixing: weights that are chosen while the model trains."""
