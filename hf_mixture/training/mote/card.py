"""The model card of a baked model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.training.mote.report import body


def write_card(folder: Path, results: Mapping[str, Any], seed: int) -> None:
    """Write the `README.md` of a baked model.

    Args:
        folder: The folder of the model.
        results: The content of `results.json`, with `versions`.
        seed: The seed of the model.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="text-generation",
        tags=["expert-edits", "hf-mixture", "mixture-of-experts", "mote"],
    )
    [entry] = [item for item in results["seeds"] if item["seed"] == seed]
    lines = [
        f"# {results['name']}: experts switched off",
        "",
        f"{results['description']} This is the model of seed {seed} with {entry['baked']['experts']} experts switched "
        "off in its weights. It knows made-up facts in words of its own, and is of no other use.".strip(),
        "",
        "## Usage",
        "",
        "A stock model: no further package is needed. `.` is the folder of this card.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'inputs = tokenizer("private place1 relation2 ?", return_tensors="pt", return_token_type_ids=False)',
        "output = model.generate(**inputs, max_new_tokens=4, do_sample=False)",
        "print(tokenizer.decode(output[0], skip_special_tokens=True))",
        "```",
        "",
        body(results),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")
