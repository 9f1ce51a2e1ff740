"""Second process of the round trip: a clean cache, and the stock loaders."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import torch
from huggingface_hub import HfApi, HfFileSystem, ModelCard, hf_hub_download, snapshot_download
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import hf_mixture
from hf_mixture.hub.artefacts import inspect_artefacts


IDS = torch.arange(24).reshape(2, 12)


def main(folder: Path) -> None:
    # The viewer of data sets is another host, which loading asks for statistics.
    datasets.config.USE_PARQUET_EXPORT = False
    expected = load_file(folder / "logits.safetensors")

    base = AutoModelForCausalLM.from_pretrained("tester/model")
    loaded = {
        "model": base.eval()(IDS).logits,
        "auto": AutoModelForCausalLM.from_pretrained("tester/adapter")(IDS).logits,
        "auto_peft": AutoPeftModelForCausalLM.from_pretrained("tester/adapter")(IDS).logits,
        "peft": PeftModel.from_pretrained(base, "tester/adapter", revision="v1")(IDS).logits,
    }
    reference = {name: expected["model" if name == "model" else "adapter"] for name in loaded}

    data = datasets.load_dataset("tester/data")
    stream = datasets.load_dataset("tester/data", split="train", streaming=True)
    local = datasets.load_from_disk(folder / "data")
    api = HfApi()
    with HfFileSystem().open("tester/adapter/adapter_model.safetensors", "rb") as file:
        file.seek(-16, 2)
        tail = file.read()
    weights = Path(hf_hub_download("tester/adapter", "adapter_model.safetensors"))
    report = {
        "equal_logits": {name: torch.equal(loaded[name], reference[name]) for name in loaded},
        "adapter_changes_the_model": not torch.equal(expected["model"], expected["adapter"]),
        "equal_mixture": hf_mixture.Mixture.from_pretrained("tester/mixture")
        == hf_mixture.Mixture.from_pretrained(folder / "mixture"),
        "mixture_card": Path(hf_hub_download("tester/mixture", "README.md", repo_type="dataset")).read_text(),
        "equal_data": {split: data[split].to_dict() == local[split].to_dict() for split in local},
        "equal_stream": list(stream) == list(local["train"]),
        "card": ModelCard.load("tester/adapter").data.to_dict(),
        "history": [commit.title for commit in api.list_repo_commits("tester/adapter")],
        "files_at_tag": sorted(api.list_repo_files("tester/adapter", revision="v1")),
        "tree": sorted(item.path for item in api.list_repo_tree("tester/adapter", recursive=True)),
        "ranged_read": tail == weights.read_bytes()[-16:],
        "missing": [
            api.repo_exists("tester/nothing"),
            api.file_exists("tester/adapter", "nothing.json"),
            api.revision_exists("tester/adapter", "v2"),
        ],
        "inspected": [artefact.kind for artefact in inspect_artefacts("tester/adapter")],
        "snapshot": snapshot_download("tester/adapter"),
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    with torch.no_grad():
        main(Path(sys.argv[1]))
