"""What a run through all rooms publishes: two folders that work, and repositories on the Hub where one is named."""

from __future__ import annotations

import json
import shutil
import tempfile
from typing import Any

from hf_mixture.hub.atomic import replaced_folder, write_atomic
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.training.everything.links import QUANTISED
from hf_mixture.training.everything.parts import REFERENCE, EverythingRun
from hf_mixture.training.reload import check_in_fresh_process


MODEL, ADAPTER = "base", "adapter"
# What the parts leave beside weights for themselves.
_OF_PARTS = ("README.md", "recipe.yaml", "results.json", "trainer_log.jsonl", "learning_curve.png")


def base_name(run: EverythingRun) -> str:
    """How the adapter names its base model: the repository, or the folder."""
    return f"{run.recipe.hub}-base" if run.recipe.hub else str(run.folder / "published" / MODEL)


def assemble(run: EverythingRun) -> dict[str, Any]:
    """Put the base model, and the adapter with its edits, into folders of their own."""
    published = run.folder / "published"
    with replaced_folder(published / MODEL) as folder:
        shutil.copytree(run.folder / QUANTISED, folder, dirs_exist_ok=True)
    with replaced_folder(published / ADAPTER) as folder:
        shutil.copytree(run.adapter, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_OF_PARTS))
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_name(run)}
        write_atomic(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
        edits = ExpertEdits.from_pretrained(run.folder / "edits")
        vars_of = {**vars(edits), "base_model_name_or_path": base_name(run)}
        ExpertEdits(**vars_of).save_pretrained(folder)
    return {"base": base_name(run)}


def push(run: EverythingRun) -> dict[str, str]:
    """Push everything to the Hub; a push that was interrupted is made again.

    Returns:
        Address of each repository, by its name.
    """
    from huggingface_hub import HfApi

    from hf_mixture.data.curation.curated import CuratedDataset
    from hf_mixture.data.mixture import Mixture
    from hf_mixture.moe.trace.trace import load_trace

    hub = str(run.recipe.hub)
    api = HfApi()
    found = {}
    for repo_id, name in ((base_name(run), MODEL), (hub, ADAPTER)):
        api.create_repo(repo_id, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=run.folder / "published" / name)
        found[repo_id] = str(commit.commit_url)
    found[f"{hub}-mixture"] = str(Mixture.from_pretrained(run.folder / "search").push_to_hub(f"{hub}-mixture"))
    trace = run.folder / "spread" / "traces" / run.recipe.spread["publish"]
    if trace.is_dir():
        found[f"{hub}-trace"] = load_trace(trace).push_to_hub(f"{hub}-trace")
    found[f"{hub}-data"] = CuratedDataset(run.folder / "curated").push_to_hub(f"{hub}-data")
    return found


def pull(run: EverythingRun) -> dict[str, float]:
    """Load what was published in a fresh process, from the Hub into a cache of its own, and compare the outputs."""
    place = run.recipe.hub or str(run.folder / "published" / ADAPTER)
    with tempfile.TemporaryDirectory() as cache:
        return check_in_fresh_process(
            {"published": place},
            {"published": run.folder / REFERENCE},
            {"dtype": "float32"},
            with_edits=True,
            environment={"HF_HUB_CACHE": cache} if run.recipe.hub else {},
        )["published"]
