"""`hf-mixture supernets`: searches for where to pool, beside the truth of every path trained alone."""
