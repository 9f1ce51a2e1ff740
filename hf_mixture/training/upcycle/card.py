"""The model card of one system of an upcycling run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.training.upcycle.recipe import UpcycleRecipe
from hf_mixture.training.upcycle.report import body


def write_card(
    folder: Path, system: str, results: Mapping[str, Any], *, recipe: UpcycleRecipe, has_router: bool
) -> None:
    """Write the `README.md` of a model folder that holds everything else already.

    Args:
        folder: The folder.
        system: Name of the system.
        results: The content of `results.json`, with `versions`.
        recipe: The recipe.
        has_router: Whether the model has a router of the registry, which `import hf_mixture` restores.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from hf_mixture.hub.cards import markdown_table

    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="text-generation",
        tags=sorted({"hf-mixture", "upcycling", *(["mixture-of-experts"] if has_router else [])}),
    )
    [entry] = [item for item in results["systems"] if item["name"] == system]
    what = (
        "the dense model itself, trained on"
        if entry["router"] is None
        else (f"the dense model as a mixture of experts with the router `{entry['router']['router']}`, trained on")
    )
    needs = (
        "The router is restored by `import hf_mixture` (`pip install hf-mixture`); without that line the router of "
        "the model family would run in its place."
        if has_router
        else "A stock model: no further package is needed."
    )
    lines = [
        f"# {results['name']}: {system}",
        "",
        f"{results['description']} This is `{system}`: {what} for {results['tokens']['continued']:,} tokens. It is "
        "small, made to compare routers, and of no other use.".strip(),
        "",
        "## Usage",
        "",
        f"{needs} `.` is the folder of this card.",
        "",
        "```python",
        *(["import hf_mixture  # restores the router", ""] if has_router else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'inputs = tokenizer("The", return_tensors="pt")',
        "output = model.generate(**inputs, max_new_tokens=32)",
        "print(tokenizer.decode(output[0], skip_special_tokens=True))",
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
        "",
        "## Training arguments",
        "",
        markdown_table(
            [
                {"argument": name, "pretrain": recipe.pretrain.get(name), "continued": recipe.continued.get(name)}
                for name in dict.fromkeys([*recipe.pretrain, *recipe.continued])
            ]
        ),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")
