"""Every file format and model type of the package: what it is, and what reads it; `hf-mixture doctor` goes by it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A file format.

    Args:
        kind: What a file of it is, for people.
        needs: What reads it, with FOLDER and FILE for the place; empty for what only its own run reads.
        file: The name that the file has; a pattern where it varies.
        version: The newest version that is read; None where files have none.
    """

    kind: str
    needs: str
    file: str
    version: int | None = 1


FORMATS: dict[str, Format] = {
    "hf_mixture": Format("mixture", "hf_mixture.Mixture.from_pretrained('FOLDER')", "mixture.json"),
    "hf_mixture.partition": Format(
        "partition (PPP)", "hf_mixture.ProbabilisticPartition.from_pretrained('FOLDER')", "partition.json"
    ),
    "hf_mixture.expert_edits": Format(
        "expert edits (MoTE)",
        "hf_mixture.AutoMoTE.from_pretrained('FOLDER'), and the base model of the edits",
        "expert_edits.json",
    ),
    "hf_mixture.ftri": Format(
        "maps of classes (MoTE)", "hf-mixture mote rank FOLDER --target LABEL", "ftri.safetensors"
    ),
    "hf_mixture.ftri_prompts": Format(
        "maps of prompts (MoTE)", "hf-mixture mote rank FOLDER --target LABEL", "prompts.safetensors"
    ),
    "hf_mixture.token_pack": Format("token pack", "hf_mixture.TokenPack('FOLDER')", "pack.json"),
    "hf_mixture.router_trace": Format(
        "router trace",
        "hf-mixture trace report FOLDER, or hf_mixture.moe.trace.load_trace('FOLDER')",
        "part-*.parquet",
    ),
    "hf_mixture_expert_residuals": Format(
        "residual experts", "hf_mixture.moe.routers.transforms.residual.load_residuals('FILE')", "*.safetensors"
    ),
    "hf_mixture_run": Format("training run", "", "journal.json"),
    "hf_mixture_results": Format("results of a run", "", "results.json", None),
    "hf_mixture_search": Format(
        "search of a mixture", "hf_mixture.run_search(search, runner, folder='FOLDER')", "search.json"
    ),
    "hf_mixture_proxy_runs": Format(
        "proxy runs", "the same search with folder='FOLDER', which continues them", "proxies.json"
    ),
    "hf_mixture_run_table": Format("run table", "hf_mixture.data.proxy.load_table('FILE')", "*.parquet"),
    "hf_mixture_swarm": Format("checkpoint of a swarm", "", "stack-*.safetensors"),
    "hf_mixture.mixing_law": Format(
        "history of a mixing law", "hf_mixture.data.online.read_history('FILE')", "*.json"
    ),
    "hf_mixture.plan": Format(
        "plan of a mixture in training", "the Trainer of the run, which resumes it", "mixture_plan.json", None
    ),
    "hf_mixture_curation": Format("recipe of a curation", "hf-mixture curate FILE", "*.yaml"),
    "hf_mixture_curation_journal": Format(
        "journal of a curation", "hf-mixture curate RECIPE --resume", "journal.jsonl"
    ),
    "hf_mixture_curation_report": Format(
        "report of a curation", "hf_mixture.CuratedDataset of the folder above", "report.json"
    ),
    "hf_mixture_decontamination_index": Format("decontamination index", "", "decontamination.safetensors"),
    "hf_mixture_unlearning": Format(
        "journal of unlearning (MMRecUn)", "hf_mixture.unlearn_saved, which adds to it", "unlearning.json"
    ),
    "hf_mixture.trajectory_fit": Format("report of a fit", "AutoModel.from_pretrained('FOLDER')", "fit_report.json"),
    "hf_mixture.trajectory_fit_journal": Format("journal of a fit", "", "*.json"),
    "hf_mixture.trajectory_bootstrap": Format("journal of a bootstrap test", "", "*.json"),
    "hf_mixture.trajectory_screening": Format("journal of a screening", "", "*.json", None),
    "hf_mixture/mixture_of_thoughts_processor": Format(
        "processor of thoughts",
        "hf_mixture.MixtureOfThoughtsProcessor.from_pretrained('FOLDER')",
        "mixture_of_thoughts_processor.json",
    ),
    "hf_mixture_folding": Format(
        "layouts over GPUs (folding)",
        "hf_mixture.FoldingPlan with the sizes of its `best`, see its README.md",
        "plan.json",
    ),
    "hf_mixture.ep_simulation": Format(
        "simulation of expert parallelism", "a person; hf-mixture simulate-ep writes it", "*.json", None
    ),
}

# Name of the method, and the class of Auto classes that loads it.
MODEL_TYPES: dict[str, tuple[str, str]] = {
    "balanced_supernets": ("Balanced Mixture of SuperNets", "AutoModelForImageClassification"),
    "knn_embed": ("kNN-Embed", "AutoModel"),
    "matsim": ("MatSim", "AutoModel"),
    "mixer": ("MixER", "AutoModel"),
    "mixture_of_thoughts": ("Mixture of Thoughts", "AutoModelForCausalLM"),
    "mm_recommender": ("MMRecUn", "AutoModel"),
    "mobilenet_v2_backbone": ("TaskExpert", "AutoBackbone"),
    "pooling_resnet": ("Balanced Mixture of SuperNets", "AutoModelForImageClassification"),
    "taskexpert": ("TaskExpert", "AutoModel"),
    "trajectory_moe": ("Trajectory mixture of experts", "AutoModel"),
}
