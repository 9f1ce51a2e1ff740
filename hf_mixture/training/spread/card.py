"""The model card of a model that was trained over several processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.training.spread.recipe import SpreadRecipe
from hf_mixture.training.spread.report import body


def write_card(folder: Path, results: Mapping[str, Any], *, recipe: SpreadRecipe) -> None:
    """Write the `README.md` of a model folder that holds everything else already.

    Args:
        folder: The folder.
        results: The content of `results.json`, with `versions`.
        recipe: The recipe.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from hf_mixture.hub.cards import markdown_table

    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="text-generation",
        tags=["hf-mixture", "mixture-of-experts"],
    )
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} It is small, made to compare, and of no other use.".strip(),
        "",
        "## Usage",
        "",
        "It is a stock checkpoint: how it was spread over processes left no trace. `.` is the folder of this card.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'inputs = tokenizer("The", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0], skip_special_tokens=True))",
        "```",
        "",
        body(results),
        "",
        "## Training data",
        "",
        f"Shares, counted in {recipe.mixture.unit}:",
        "",
        markdown_table(
            [
                {"domain": name, "share": float(share), "source": str(recipe.domains[name])}
                for name, share in recipe.mixture.weights.items()
            ]
        ),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")
