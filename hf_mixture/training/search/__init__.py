"""`hf-mixture mix search`: from domains of text to a `mixture.json`, with a comparison at equal tokens."""
