"""The model card of the nested model of a D2MoE run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.training.mwq.recipe import MwqRecipe
from hf_mixture.training.mwq.report import body


def write_card(folder: Path, results: Mapping[str, Any], *, recipe: MwqRecipe) -> None:
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
        tags=["d2moe", "hf-mixture", "mixture-of-experts", "mwq", "quantized"],
    )
    widths = recipe.planes.widths
    budget = int(recipe.speed.budget * results["parameters"]["experts"])
    lines = [
        f"# {results['name']}",
        "",
        f"{results['description']} The experts of this model are held as nested bit planes: one file that can be read "
        f"at {', '.join(map(str, widths))} bits, with bit routers that choose the width of each token in each expert "
        "(D2MoE, arXiv 2504.15299). It is small, made to compare, and of no other use.".strip(),
        "",
        "## Usage",
        "",
        "The planes are read by `import hf_mixture` (`pip install hf-mixture`); without that line transformers finds "
        "no weights and stops. `.` is the folder of this card.",
        "",
        "```python",
        "import hf_mixture",
        "from hf_mixture import MwqConfig, set_bit_budget",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        f"set_bit_budget(model, {recipe.bit_routers.average_bits:g})  # bits of a weight, on average over tokens",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'inputs = tokenizer("The", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0], skip_special_tokens=True))",
        "",
        "# The experts stay on disk, with at most so many bytes of them in memory.",
        "AutoModelForCausalLM.from_pretrained(",
        '    ".", experts_implementation="mwq_offload",',
        f"    quantization_config=MwqConfig(expert_budget={budget}),",
        ")",
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
