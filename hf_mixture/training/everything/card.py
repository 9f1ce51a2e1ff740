"""The model cards of what a run through all rooms publishes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_mixture.training.everything.publish import ADAPTER, MODEL, base_name


if TYPE_CHECKING:
    from hf_mixture.training.everything.parts import EverythingRun


def write_cards(run: EverythingRun, results: Mapping[str, Any], body: str) -> None:
    """Write the `README.md` of both published folders, which hold everything else already.

    Args:
        run: The run.
        results: The content of `results.json`, with `versions`.
        body: What the report says.
    """
    hub = run.recipe.hub
    base = base_name(run) if hub else None
    about = f"{results['description']} It is small, made to show that all parts fit together, and of no other use."
    loaded = [f'AutoMoTE.from_pretrained("{hub}")'] if hub else ['AutoMoTE.from_pretrained(".", base_model="../base")']
    _write(
        run,
        ADAPTER,
        {"library_name": "peft", "base_model": base, "tags": ["expert-edits", "hf-mixture", "mos", "mote"]},
        [
            f"# {results['name']}",
            "",
            f"{about} An adapter of a quantised sparse model, and edits that switch experts off.".strip(),
            "",
            "## Usage",
            "",
            *_usage("from hf_mixture import AutoMoTE", loaded[0], hub),
            "",
            "`AutoModelForCausalLM.from_pretrained` loads the adapter without the edits.",
            "",
            body,
        ],
    )
    place = base or "."
    _write(
        run,
        MODEL,
        {"library_name": "transformers", "tags": ["d2moe", "hf-mixture", "mixture-of-experts", "mwq", "quantized"]},
        [
            f"# {results['name']}: the quantised sparse model",
            "",
            f"{about} Its experts are nested bit planes (D2MoE, arXiv 2504.15299).".strip(),
            "",
            "## Usage",
            "",
            *_usage(
                "import hf_mixture\nfrom transformers import AutoModelForCausalLM",
                f'AutoModelForCausalLM.from_pretrained("{place}")',
                base,
            ),
            "",
            body,
        ],
    )
    shutil.copy(run.folder / "recipe.yaml", run.folder / "published" / ADAPTER / "recipe.yaml")


def _usage(imports: str, model: str, place: str | None) -> list[str]:
    return [
        "Planes and adapter are read by `hf_mixture` (`pip install hf-mixture`)."
        + ("" if place else " `.` is the folder of this card."),
        "",
        "```python",
        imports,
        "from transformers import AutoTokenizer",
        "",
        f"model = {model}",
        f'tokenizer = AutoTokenizer.from_pretrained("{place or "."}")',
        'inputs = tokenizer("The", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0], skip_special_tokens=True))",
        "```",
    ]


def _write(run: EverythingRun, name: str, data: Mapping[str, Any], lines: list[str]) -> None:
    from huggingface_hub import ModelCard, ModelCardData

    header = ModelCardData(license="apache-2.0", pipeline_tag="text-generation", **data).to_yaml()
    card = ModelCard(f"---\n{header}\n---\n\n" + "\n".join(lines) + "\n")
    card.save(run.folder / "published" / name / "README.md")
