"""`hf-mixture mote run`: a tiny model in which a behaviour emerges, whose experts are found, switched and baked."""
