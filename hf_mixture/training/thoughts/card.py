"""The model card of the mixture that a run of thoughts publishes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.training.thoughts.recipe import ThoughtsRecipe
from hf_mixture.training.thoughts.report import body


def write_card(folder: Path, results: Mapping[str, Any], *, recipe: ThoughtsRecipe, prompt: str) -> None:
    """Write the `README.md` of a model folder that holds everything else already.

    Args:
        folder: The folder.
        results: The content of `results.json`, with `versions`.
        recipe: The recipe.
        prompt: Text that the usage block continues.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from hf_mixture.hub.cards import markdown_table

    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="text-generation",
        tags=["hf-mixture", "mixture-of-thoughts"],
        base_model=[place for expert in recipe.experts.values() if (place := expert.from_pretrained)] or None,
    )
    experts = ", ".join(f"`{entry['name']}` ({entry['model_type']})" for entry in results["experts"])
    where = (
        "The folder holds the experts too."
        if recipe.new_experts
        else "The folder holds the router and the interaction levels; the experts are loaded from where they are."
    )
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} A Mixture of Thoughts (arXiv 2509.21164) of the frozen experts {experts}, with "
        f"{results['parameters']['mixture']:,} trained parameters.".strip(),
        "",
        "## Usage",
        "",
        f"`pip install hf-mixture`. {where} `.` is the folder of this card.",
        "",
        "```python",
        "import hf_mixture",
        "from transformers import AutoModelForCausalLM",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'processor = hf_mixture.MixtureOfThoughtsProcessor.from_pretrained(".")',
        f"inputs = processor({prompt[:60]!r})",
        "output = model.generate(**inputs, processor=processor, max_new_tokens=32)",
        "print(processor.batch_decode(output, skip_special_tokens=True)[0])",
        "```",
        "",
        body(results),
        "",
        "## Training data",
        "",
        markdown_table([{"domain": name, "source": str(source)} for name, source in recipe.domains.items()]),
        "",
        "## Settings",
        "",
        markdown_table([{"setting": name, "value": str(value)} for name, value in recipe.thoughts.items()]),
        "",
        markdown_table(
            [
                {
                    "argument": name,
                    "pretrain": (recipe.pretrain or {}).get(name, ""),
                    "tune": recipe.tune.get(name, ""),
                }
                for name in dict.fromkeys([*(recipe.pretrain or {}), *recipe.tune])
            ]
        ),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").save(folder / "README.md")
