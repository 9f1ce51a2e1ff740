"""One recipe through all rooms: curated text, clusters, a mixture, a sparse model, planes, an adapter, edits."""
