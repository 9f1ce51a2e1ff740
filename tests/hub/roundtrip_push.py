"""First process of the round trip: makes one artefact of each kind, saves it here and pushes it to the Hub."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi, ModelCard
from peft import get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import hf_mixture
from hf_mixture.hub.cards import write_model_card


IDS = torch.arange(24).reshape(2, 12)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    base = LlamaForCausalLM(config)
    base.save_pretrained(folder / "model")
    base.push_to_hub("tester/model")

    model = AutoModelForCausalLM.from_pretrained("tester/model")
    mos = hf_mixture.MosConfig(
        task_type="CAUSAL_LM",
        r=4,
        equivalent_rank=2,
        private_rank=1,
        num_shards=2,
        init_weights=False,
        target_modules="all-linear",
    )
    model = get_peft_model(model, mos).eval()
    model.save_pretrained(folder / "adapter")
    model.push_to_hub("tester/adapter")
    with torch.no_grad():
        logits = {"model": base.eval()(IDS).logits, "adapter": model(IDS).logits}
    save_file(logits, folder / "logits.safetensors")

    card = write_model_card(
        folder / "adapter",
        title="A tiny MoS adapter",
        summary="Random weights.",
        method="MoS",
        base_model="tester/model",
        adapter_config=model.peft_config["default"].to_dict(),
        location="tester/adapter",
    )
    ModelCard.load(card).push_to_hub("tester/adapter")

    mixture = hf_mixture.Mixture({"wiki": 0.7, "code": 0.3}, unit="tokens", seed=3)
    mixture.save_pretrained(folder / "mixture")
    mixture.push_to_hub("tester/mixture")
    notes = {"path_or_fileobj": b"# Notes\n", "path_in_repo": "README.md", "repo_type": "dataset"}
    HfApi().upload_file(repo_id="tester/mixture", **notes)
    hf_mixture.Mixture.uniform(["wiki", "code"], unit="bytes").push_to_hub("tester/mixture")
    mixture.push_to_hub("tester/mixture")

    rows = {"text": [f"row {index}" for index in range(50)], "domain": ["wiki", "code"] * 25}
    data = DatasetDict({"train": Dataset.from_dict(rows), "test": Dataset.from_dict(rows).select(range(7))})
    data.save_to_disk(folder / "data")
    data.push_to_hub("tester/data")

    api = HfApi()
    api.create_tag("tester/adapter", tag="v1")
    api.upload_file(path_or_fileobj=b"later\n", path_in_repo="notes/later.txt", repo_id="tester/adapter")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
