"""The recipe of layouts: what `hf-mixture plan --recipe` reads and checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import PlainRecipe
from hf_mixture.training.resolve import check_folder_names, check_least, check_model_config, recipe_values
from hf_mixture.training.strict import build


@dataclass(frozen=True, kw_only=True)
class PublishedSpec:
    """What a paper reports of a layout.

    Args:
        mfu: Model FLOPs utilisation, percent.
        sizes: Sizes of the mapping, by `tp`, `cp`, `pp`, `ep`, `etp`. Default: not said.
    """

    mfu: float
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LayoutSpec:
    """A model and the GPUs that it is to be trained on.

    Args:
        model: `model_type` and fields of the configuration; or `from_pretrained`, a folder or Hub id.
        gpus: Number of GPUs.
        sequence: Tokens of a sequence. Default: 4096.
        global_batch: Sequences of an optimizer step. Default: 256.
        published: What a paper reports. Default: nothing.
    """

    model: dict[str, Any]
    gpus: int
    sequence: int = 4096
    global_batch: int = 256
    published: PublishedSpec | None = None


@dataclass(frozen=True, kw_only=True)
class FoldingRecipe(PlainRecipe):
    """Layouts that are searched, and compared with published ones.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        layouts: What is searched, by name.
        gpu: `h100`, `h200` or `a100`. Default: the first.
        description: One paragraph for the report.
    """

    name: str
    output_dir: str
    layouts: dict[str, LayoutSpec]
    gpu: str = "h100"
    description: str = ""


def resolve_folding(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> FoldingRecipe:
    """Read a recipe of layouts; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    from hf_mixture.moe.parallel.shape import cluster_of

    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "plan --recipe")
    recipe = build(FoldingRecipe, values, "")
    if not recipe.layouts:
        raise ValueError("layouts is empty; name at least one")
    check_folder_names("layouts", recipe.layouts)
    for name, layout in recipe.layouts.items():
        where = f"layouts.{name}"
        check_least({f"{where}.{key}": (getattr(layout, key), 1) for key in ("gpus", "sequence", "global_batch")})
        if "from_pretrained" not in layout.model:
            # Of models that are trained, the tokenizer decides the vocabulary; here is none.
            check_model_config(
                {key: value for key, value in layout.model.items() if key != "vocab_size"}, f"{where}.model"
            )
        elif len(layout.model) > 1:
            raise ValueError(f"{where}.model has from_pretrained and other keys; give one or the other")
        cluster_of(recipe.gpu, layout.gpus)
    return recipe
