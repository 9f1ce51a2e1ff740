"""The parts of a run through all rooms, in order: each reads what the parts before it have left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hf_mixture.hub.atomic import replaced_folder
from hf_mixture.training.everything.links import (
    QUANTISED,
    curation_of,
    planes_of,
    search_of,
    spread_of,
    train_of,
)
from hf_mixture.training.everything.recipe import EverythingRecipe
from hf_mixture.training.journal import Journal
from hf_mixture.training.prepare import Prepared


if TYPE_CHECKING:
    from hf_mixture.moe.mote.edit import Mode

CURATE, CLUSTERS, SEARCH, SPREAD, QUANTISE, TRAIN, EDIT = (
    "curate",
    "clusters",
    "search",
    "spread",
    "quantise",
    "train",
    "edit",
)
REFERENCE = "reference.safetensors"


@dataclass(frozen=True, kw_only=True)
class EverythingRun:
    """What every part of a run needs.

    Args:
        recipe: The recipe.
        journal: Which parts are finished.
        folder: The run folder, absolute.
        command: The command, for reports and cards.
    """

    recipe: EverythingRecipe
    journal: Journal
    folder: Path
    command: str

    @property
    def domains(self) -> dict[str, str]:
        """Path of each domain, as the run folder is named in the recipe."""
        names = self.journal.finished[CLUSTERS]["domains"]
        return {name: str(Path(self.recipe.output_dir, "domains", name)) for name in names}

    @property
    def weights(self) -> dict[str, float]:
        """Shares of the domains: those that the steered training has drawn, on average."""
        found: dict[str, float] = self.journal.finished[SPREAD]["weights"]
        return found

    @property
    def spread_model(self) -> Path:
        """Folder of the sparse model."""
        return self.folder / "spread" / "models" / self.recipe.spread["publish"]

    @property
    def adapter(self) -> Path:
        """Folder of the adapter."""
        (name,) = self.recipe.train["adapters"]
        return self.folder / "train" / "adapters" / name


def curate_text(run: EverythingRun) -> dict[str, Any]:
    """Curate the sources, and count documents by licence."""
    from hf_mixture.data.curation.pipeline import curate

    curated = curate(None, curation_of(run.recipe), output_dir=run.folder / "curated", resume=True)
    names = list(curated.report["configurations"])
    wanted = run.recipe.clusters.configuration
    if wanted is not None and wanted not in names:
        raise ValueError(f"clusters.configuration is {wanted!r}; the curated data set has {', '.join(names)}")
    configuration = wanted or names[-1]
    rows = curated.load(configuration)
    return {
        "configuration": configuration,
        "read": {name: facts["read"] for name, facts in curated.report["sources"].items()},
        "kept": dict(Counter(rows["source"]).most_common()),
        "licences": dict(Counter(rows["license_spdx"]).most_common()),
    }


def make_domains(run: EverythingRun) -> dict[str, Any]:
    """Group the curated documents by PPP, and write each group as a domain."""
    from hf_mixture.data.clustering.dataset import cluster_dataset
    from hf_mixture.data.clustering.ppp import ProbabilisticPartition
    from hf_mixture.data.curation.curated import CuratedDataset
    from hf_mixture.data.domains import domains_from_clusters
    from hf_mixture.data.search.clusters import embed_texts
    from hf_mixture.training.search.texts import save_clusters

    spec = run.recipe.clusters
    rows = CuratedDataset(run.folder / "curated").load(run.journal.finished[CURATE]["configuration"])
    vectors = embed_texts([text[: spec.max_chars] for text in rows["text"]], size=spec.size, seed=run.recipe.seed)
    partition = ProbabilisticPartition(**spec.partition)
    grouped = cluster_dataset(
        rows.select_columns(["text", "license_spdx"]).add_column("embedding", vectors.tolist()), partition=partition
    )
    numbers = np.asarray(grouped["cluster_id"][:])
    small = np.bincount(numbers)[numbers] < spec.min_rows
    left_out = int(small.sum()) if small.sum() < spec.min_rows else 0
    if left_out:
        # Together they are too few to hold some out.
        grouped = grouped.select(np.flatnonzero(~small))
    domains = domains_from_clusters(grouped, min_rows=spec.min_rows)
    if len(domains) < 2:
        raise ValueError(
            f"PPP finds {partition.n_clusters_} clusters in {len(rows)} documents, which make {len(domains)} domain "
            f"of at least {spec.min_rows}; a mixture needs two: lower clusters.min_rows, or change clusters.size"
        )
    if run.recipe.edits.domain not in domains:
        raise ValueError(f"edits.domain is {run.recipe.edits.domain!r}; the domains are {', '.join(domains)}")
    with replaced_folder(run.folder / "domains") as folder:
        save_clusters(domains, folder)
    return {
        "num_clusters": partition.n_clusters_,
        "left_out": left_out,
        "separability": [float(value) for value in partition.separability_],
        "domains": {
            name: {
                "documents": sum(map(len, part.values())),
                "licences": dict(Counter(part["train"]["license"]).most_common(3)),
            }
            for name, part in domains.items()
        },
    }


def find_mixture(run: EverythingRun) -> dict[str, Any]:
    """Search the mixture that the training begins with."""
    from hf_mixture.training.search.run import search_recipe

    results = search_recipe(search_of(run.recipe, run.domains), resume=True, command=run.command)
    systems = results["comparison"]["systems"]
    return {
        "method": systems[0]["name"],
        "weights": systems[0]["weights"],
        "losses": {system["name"]: [entry["objective"] for entry in system["runs"]] for system in systems},
    }


def train_model(run: EverythingRun) -> dict[str, Any]:
    """Train the sparse model by every system; the published one goes on."""
    from hf_mixture.moe.trace.statistics import max_over_mean
    from hf_mixture.moe.trace.trace import load_trace
    from hf_mixture.training.spread.run import spread_recipe

    begin = run.journal.finished[SEARCH]["weights"]
    recipe = spread_of(run.recipe, run.domains, begin)
    results = spread_recipe(recipe, resume=True, command=run.command)
    rows = {row["name"]: row for row in results["rows"]}
    published = rows[recipe.publish]
    found = {"rows": list(rows.values()), "published": recipe.publish, "weights": begin, "trace": None}
    if published["online"] is not None:
        found["weights"] = published["online"]["average_weights"]
    if recipe.trace_every is not None:
        trace = load_trace(run.folder / "spread" / "traces" / recipe.publish)
        found["trace"] = {
            "steps": trace.steps.tolist(),
            "max_over_mean": [float(max_over_mean(counts.sum(axis=0))) for counts in trace.counts],
        }
    return found


def quantise_model(run: EverythingRun) -> dict[str, Any]:
    """Quantise the experts of the sparse model to nested planes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = planes_of(run.recipe, parts=str(run.folder / "checkpoints" / QUANTISE))
    model = AutoModelForCausalLM.from_pretrained(run.spread_model, quantization_config=config)
    with replaced_folder(run.folder / QUANTISED) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(run.spread_model).save_pretrained(folder)
    return {"bytes": {"sparse": weight_bytes(run.spread_model), "quantised": weight_bytes(run.folder / QUANTISED)}}


def train_adapter(run: EverythingRun) -> dict[str, Any]:
    """Train the adapter on the quantised model."""
    from hf_mixture.training.run import run_recipe

    base = Path(run.recipe.output_dir, QUANTISED)
    results = run_recipe(train_of(run.recipe, run.domains, run.weights, base), resume=True, command=run.command)
    scores = {system["name"]: system["test_bits_per_byte"] for system in results["systems"]}
    adapter = results["systems"][-1]
    return {
        "name": adapter["name"],
        "base": scores["base"],
        "adapted": adapter["test_bits_per_byte"],
        "trainable_parameters": adapter["trainable_parameters"],
        "bytes": adapter["file_bytes"],
        "reload": adapter["reload"],
    }


def edit_experts(run: EverythingRun) -> dict[str, Any]:
    """Switch off the experts that one domain uses most, on top of the adapter, and keep what the model then says."""
    from transformers import AutoTokenizer

    from hf_mixture.moe.mote.edits import ExpertEdits
    from hf_mixture.moe.mote.patch import tune_experts
    from hf_mixture.moe.mote.ranking import rank_experts
    from hf_mixture.moe.mote.scan import scan_prompts
    from hf_mixture.training.models import load_model
    from hf_mixture.training.reload import save_reference
    from hf_mixture.training.scoring import mixture_scores

    recipe, spec = run.recipe, run.recipe.edits
    model = load_model(run.adapter, {"dtype": "float32"})
    prompts, labels = _prompts(run)
    found = scan_prompts(
        model,
        AutoTokenizer.from_pretrained(run.spread_model),
        prompts,
        labels=labels,
        folder=run.folder / "checkpoints" / EDIT / "scan",
    )
    ranked = rank_experts(found.maps.summarise(labels), spec.domain)
    edits = ExpertEdits.from_ranking(ranked, top=spec.num_off, mode=cast("Mode", spec.mode), model=model)
    tune_experts(model, edits)
    edits.save_pretrained(run.folder / "edits")
    windows = Prepared(run.folder / "train" / "prepared").windows("test", recipe.block_size)
    save_reference(model, windows[spec.domain].input_ids[:2], run.folder / REFERENCE)
    scores = mixture_scores(
        model, windows, run.weights, batch_size=recipe.evaluation.batch_size, label="the edited model"
    )
    return {
        "edits": [{"module": edit.module, "expert": edit.expert, "op": edit.op} for edit in edits.edits],
        "edited": scores,
    }


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _prompts(run: EverythingRun) -> tuple[list[str], list[str]]:
    """Beginnings of validation documents, and their domains."""
    from hf_mixture.data.domains import load_domains

    spec = run.recipe.edits
    prompts, labels = [], []
    for name, part in load_domains(run.domains).items():
        texts = part["validation"]["text"][: spec.num_prompts]
        prompts += [text[: spec.prompt_chars] for text in texts]
        labels += [name] * len(texts)
    return prompts, labels
