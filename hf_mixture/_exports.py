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
    # experts inside one sparse model
    "describe_moe": "hf_mixture.moe.anatomy.describe",
    "find_routers": "hf_mixture.moe.anatomy.find",
    # models that answer together
    "MixtureOfThoughtsCollator": "hf_mixture.models.mixture_of_thoughts.data_collator",
    "MixtureOfThoughtsConfig": "hf_mixture.models.mixture_of_thoughts.configuration_mixture_of_thoughts",
    "MixtureOfThoughtsForCausalLM": "hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts",
    "MixtureOfThoughtsProcessor": "hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts",
    "score_experts": "hf_mixture.models.mixture_of_thoughts.data_collator",
    # data
    "Mixture": "hf_mixture.data.mixture",
    "MixtureCallback": "hf_mixture.data.trainer",
    "MixtureDataset": "hf_mixture.data.mixture_dataset",
    "MixtureIterableDataset": "hf_mixture.data.streaming",
    "MixturePlan": "hf_mixture.data.plan",
    "MixtureStreamCallback": "hf_mixture.data.streaming_trainer",
    "Segment": "hf_mixture.data.schedule",
    "Source": "hf_mixture.data.source",
    "SourcePolicy": "hf_mixture.data.schedule",
    "TokenPack": "hf_mixture.data.pack",
    "collate_packed": "hf_mixture.data.packed_rows",
    "export_mixture": "hf_mixture.data.export",
    "import_mixture": "hf_mixture.data.importers",
    "installed_packages": "hf_mixture.data.installed",
    "interleave_datasets": "hf_mixture.data.interleave",
    "load_domain": "hf_mixture.data.domains",
    "load_domains": "hf_mixture.data.domains",
    "pack_tokens": "hf_mixture.data.tokenise",
    "plan_report": "hf_mixture.data.plan_report",
    "split_by_domain": "hf_mixture.data.domains",
    # mixtures searched for by small runs
    "AdmireSearch": "hf_mixture.data.search.admire",
    "ClimbSearch": "hf_mixture.data.search.climb",
    "Constraints": "hf_mixture.data.search.constraints",
    "DMLSearch": "hf_mixture.data.search.dml",
    "Objective": "hf_mixture.data.search.protocol",
    "RegMixSearch": "hf_mixture.data.search.regmix",
    "RunTable": "hf_mixture.data.search.table",
    "run_search": "hf_mixture.data.search.loop",
    "search_mixture": "hf_mixture.data.search.entry",
    "search_result": "hf_mixture.data.search.entry",
    # the small runs
    "ProxyRunner": "hf_mixture.data.proxy.runner",
    "ProxySpec": "hf_mixture.data.proxy.spec",
    "ProxySwarm": "hf_mixture.data.proxy.swarm",
    # mixtures that change while a model trains
    "AioliCallback": "hf_mixture.data.online.aioli",
    "DoGECallback": "hf_mixture.data.online.doge",
    "DoReMiCallback": "hf_mixture.data.online.doremi",
    "MixingLawCallback": "hf_mixture.data.online.callback",
    "ODMCallback": "hf_mixture.data.online.odm",
    "SkillItCallback": "hf_mixture.data.online.skillit",
}
