"""Model cards, written from facts that the caller measured.

The function takes plain data, so that a card can be written by the training command, by a notebook or by a test. Each
code block of a card runs as it stands, with the folder of the card as the working directory.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any


CARD_PACKAGES = ("hf-mixture", "torch", "transformers", "peft", "accelerate", "datasets")
OWN_PEFT_TYPES = frozenset({"MOS"})

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def write_model_card(
    folder: str | PathLike[str],
    *,
    title: str,
    summary: str,
    method: str,
    base_model: str,
    adapter_config: Mapping[str, Any],
    paper: str = "",
    license: str = "apache-2.0",
    mixture: Mapping[str, float] | None = None,
    mixture_unit: str = "examples",
    metrics: Sequence[Mapping[str, Any]] = (),
    metrics_caption: str = "",
    hyperparameters: Mapping[str, Any] | None = None,
    learning_curve: str = "",
    command: str = "",
    versions: Mapping[str, str] | None = None,
    tokenizer: str = "",
    prompt: str = "Once upon a time",
    location: str = ".",
    tags: Sequence[str] = (),
) -> Path:
    """Write the `README.md` of an adapter folder.

    Args:
        folder: The adapter folder; it exists already.
        title: Heading of the card.
        summary: One paragraph: what was trained, on what, and what came out.
        method: Name of the method, for example `"MoS"`.
        base_model: Hub id of the base model, or its path, relative to `folder` or to the current directory.
        adapter_config: The content of `adapter_config.json`; its `peft_type` decides what the usage block imports.
        paper: Reference of the method. Defaults to none.
        license: SPDX expression of the adapter's licence, in lower case as the Hub writes it.
        mixture: Weight of each domain of the training data. Defaults to no section about data.
        mixture_unit: What the weights count: `"examples"`, `"tokens"` or `"bytes"`.
        metrics: Rows of the table of results; all rows have the keys of the first, which are the column headings.
        metrics_caption: What the columns mean and the units they have.
        hyperparameters: Name and value of each training argument that differs from the Trainer's default.
        learning_curve: File name of the plot, relative to `folder`.
        command: The command that made the adapter.
        versions: Version of each package used. Defaults to the installed ones.
        tokenizer: Name or path for `AutoTokenizer.from_pretrained`. Without it the usage block feeds token ids.
        prompt: Text that the usage block continues; used only with `tokenizer`.
        location: How the usage block names the adapter: its Hub id, or `"."` for a snippet that runs in `folder`.
        tags: Further tags for the metadata.

    Returns:
        The path of the card.

    Raises:
        ValueError: If `folder` is not a directory, `learning_curve` is not in it, `adapter_config` has no `peft_type`,
            or the rows of `metrics` do not share their keys.

    Example:
        >>> import tempfile
        >>> from hf_mixture.hub.cards import write_model_card
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     card = write_model_card(
        ...         folder,
        ...         title="A LoRA for C headers",
        ...         summary="A small model, adapted to C headers.",
        ...         method="LoRA",
        ...         base_model="gpt2",
        ...         adapter_config={"peft_type": "LORA", "r": 8},
        ...         metrics=[{"domain": "c", "before": 3.21, "after": 2.5}],
        ...     )
        ...     "| c | 3.21 | 2.5 |" in card.read_text(encoding="utf-8")
        True
    """
    folder = _existing_folder(folder)
    peft_type = adapter_config.get("peft_type")
    if not peft_type:
        raise ValueError(
            "adapter_config has no 'peft_type'; pass the content of adapter_config.json, for example "
            "model.peft_config['default'].to_dict()"
        )
    peft_type = str(getattr(peft_type, "value", peft_type))
    if learning_curve and not (folder / learning_curve).is_file():
        raise ValueError(f"learning_curve={learning_curve!r} is not a file in {folder}; save the plot before the card")

    needs_hf_mixture = peft_type in OWN_PEFT_TYPES
    facts = {
        "title": title,
        "summary": summary,
        "method": method,
        "paper": paper,
        "base_model": base_model,
        "base_is_local": _is_local(folder, base_model),
        "license": license,
        "command": command,
        "learning_curve": learning_curve,
        "peft_type": peft_type,
        "needs_hf_mixture": needs_hf_mixture,
        "location": location,
        "usage": _usage(needs_hf_mixture, location, tokenizer, prompt),
        "adapter_config": json.dumps(_jsonable(adapter_config), indent=2, sort_keys=True),
        "mixture": _weights_table(mixture) if mixture else "",
        "mixture_unit": mixture_unit,
        "metrics": markdown_table(metrics) if metrics else "",
        "metrics_caption": metrics_caption,
        "hyperparameters": _key_table("argument", hyperparameters or {}),
        "versions": _key_table("package", versions or package_versions()),
        "metadata": _model_metadata(folder, base_model, license, peft_type, tags),
    }
    return _write(folder, "model_card.md.jinja", facts)


def write_dataset_card(folder: str | PathLike[str], facts: Mapping[str, Any]) -> Path:
    """Write the `README.md` of a curated data set.

    Args:
        folder: The folder of the data set; it exists already.
        facts: What the template `dataset_card.md.jinja` names, all of it.

    Returns:
        The path of the card.

    Raises:
        ValueError: If `folder` is not a directory.
    """
    return _write(_existing_folder(folder), "dataset_card.md.jinja", facts)


def name_for_a_card(place: str) -> str:
    """What a card calls a model: an id or a relative path as it is, a place on this machine by its last part.

    Args:
        place: A Hub id, or a path.

    Example:
        >>> from hf_mixture.hub.cards import name_for_a_card
        >>> name_for_a_card("mistralai/Mixtral-8x7B-v0.1"), name_for_a_card("/home/me/mixtral")
        ('mistralai/Mixtral-8x7B-v0.1', 'mixtral')
    """
    return Path(place).name if Path(place).is_absolute() else place


def package_versions() -> dict[str, str]:
    """Return the installed version of each package that a card names.

    Returns:
        Distribution name to version; packages that are not installed are absent.

    Example:
        >>> from hf_mixture.hub.cards import package_versions
        >>> "peft" in package_versions()
        True
    """
    versions = {}
    for name in CARD_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as a Markdown table; floats get four significant digits.

    Args:
        rows: At least one row; all rows have the keys of the first, which are the column headings.

    Returns:
        The table, without a final line break.

    Raises:
        ValueError: If a row has other keys than the first.

    Example:
        >>> from hf_mixture.hub.cards import markdown_table
        >>> print(markdown_table([{"domain": "prose", "bits": 2.34567}]))
        | domain | bits |
        |---|---|
        | prose | 2.346 |
    """
    columns = list(rows[0])
    for index, row in enumerate(rows):
        if set(row) != set(columns):
            raise ValueError(
                f"row {index} of the table has the columns {sorted(row)}, row 0 has {sorted(columns)}; give every row "
                "the same columns, with None where a value is missing"
            )
    lines = [_table_line(columns), "|" + "---|" * len(columns)]
    lines.extend(_table_line([row[column] for column in columns]) for row in rows)
    return "\n".join(lines)


def _existing_folder(folder: str | PathLike[str]) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(
            f"folder={str(folder)!r} is not a directory; save the adapter or mixture there before its card"
        )
    return path


def _write(folder: Path, template: str, facts: Mapping[str, Any]) -> Path:
    import jinja2
    from huggingface_hub import ModelCard

    # Cards are Markdown, so HTML escaping would damage them; the strict mode makes a forgotten fact an error.
    environment = jinja2.Environment(  # noqa: S701 - the output is Markdown
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["code"] = _code
    source = files("hf_mixture.hub").joinpath("templates", template).read_text(encoding="utf-8")
    content = environment.from_string(source).render(facts)
    path = folder / "README.md"
    ModelCard(content).save(path)
    return path


def _model_metadata(folder: Path, base_model: str, license: str, peft_type: str, tags: Sequence[str]) -> str:
    from huggingface_hub import ModelCardData

    # The Hub rejects a base_model that is a local path.
    on_hub = _HUB_ID.fullmatch(base_model) is not None and not _is_local(folder, base_model)
    return ModelCardData(
        library_name="peft",
        license=license,
        base_model=base_model if on_hub else None,
        pipeline_tag="text-generation",
        tags=sorted({"hf-mixture", peft_type.lower(), "transformers", *tags}),
    ).to_yaml()


def _is_local(folder: Path, base_model: str) -> bool:
    # Unlike those of pathlib, no name is too long for this function.
    return os.path.exists(base_model) or os.path.exists(folder / base_model)


def _usage(needs_hf_mixture: bool, location: str, tokenizer: str, prompt: str) -> str:
    lines = []
    if needs_hf_mixture:
        lines += ["import hf_mixture  # registers the adapter type", ""]
    if tokenizer:
        lines += [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"model = AutoModelForCausalLM.from_pretrained({json.dumps(location)})",
            f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(tokenizer)})",
            f'inputs = tokenizer({json.dumps(prompt)}, return_tensors="pt")',
            "output = model.generate(**inputs, max_new_tokens=32)",
            "print(tokenizer.decode(output[0], skip_special_tokens=True))",
        ]
    else:
        lines += [
            "import torch",
            "from transformers import AutoModelForCausalLM",
            "",
            f"model = AutoModelForCausalLM.from_pretrained({json.dumps(location)})",
            "logits = model(input_ids=torch.tensor([[1, 2, 3]])).logits",
            "print(logits.shape)",
        ]
    return "\n".join(lines)


def _weights_table(weights: Mapping[str, float]) -> str:
    return markdown_table([{"domain": name, "weight": float(weight)} for name, weight in weights.items()])


def _key_table(heading: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    return markdown_table([{heading: name, "value": value} for name, value in values.items()])


def _table_line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _code(text: str) -> str:
    """A cell of a table that shows a text as code, whatever is in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{_cell(text)}{space}{fence}"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_jsonable(item) for item in value)
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    # Enumerations such as PeftType and TaskType.
    return getattr(value, "value", value)
