"""The data files that the rules of curation are read from: YAML with a `format`, a `version` and a JSON schema."""
