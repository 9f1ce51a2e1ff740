"""The public surface: each top-level name and the module that defines it."""

EXPORTS: dict[str, str] = {
    # methods
    "MethodInfo": "hf_mixture.methods",
    "list_methods": "hf_mixture.methods",
    # adapters
    "MosConfig": "hf_mixture.adapters.mos.config",
    "MosModel": "hf_mixture.adapters.mos.model",
    "export_lora": "hf_mixture.adapters.mos.export",
    "hotswap_adapter": "hf_mixture.adapters.mos.hotswap",
    # data
    "Mixture": "hf_mixture.data.mixture",
    "Source": "hf_mixture.data.source",
    "installed_packages": "hf_mixture.data.installed",
    "interleave_datasets": "hf_mixture.data.interleave",
    "load_domain": "hf_mixture.data.domains",
    "load_domains": "hf_mixture.data.domains",
    "split_by_domain": "hf_mixture.data.domains",
}
