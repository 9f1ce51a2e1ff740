"""The public surface: each top-level name and the module that defines it."""

EXPORTS: dict[str, str] = {
    # methods
    "MethodInfo": "hf_mixture.methods",
    "list_methods": "hf_mixture.methods",
    # adapters
    "MosConfig": "hf_mixture.adapters.mos.config",
    "MosModel": "hf_mixture.adapters.mos.model",
    # data
    "Mixture": "hf_mixture.data.mixture",
    "interleave_datasets": "hf_mixture.data.interleave",
}
