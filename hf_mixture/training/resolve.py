"""From the text of a recipe to a checked `Recipe`: the file, then overrides, then every rule that needs no data."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hf_mixture.hub.damage import reading
from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import Recipe, StageSpec, TokenizerSpec, source_of
from hf_mixture.training.strict import apply_override, build, check_names, parse_yaml


# What the runner sets itself: where a stage writes, and the order of the rows, which the mixture has fixed already.
OWNED_ARGUMENTS = frozenset(
    {
        "do_eval",
        "do_predict",
        "do_train",
        "load_best_model_at_end",
        "output_dir",
        "push_to_hub",
        "resume_from_checkpoint",
        "save_only_model",
        "save_strategy",
        "train_sampling_strategy",
    }
)


BASE_ROWS = ("untrained", "base")
DTYPES = ("float32", "bfloat16", "float16", "auto")


def find_recipe(name: str) -> str:
    """Return the text of a recipe file, or of a recipe that comes with the package.

    Args:
        name: Path of a YAML file, or the name of a packaged recipe, for example `"quickstart"`.

    Returns:
        The YAML text.

    Raises:
        ValueError: If there is neither, or the file is not text.

    Example:
        >>> from hf_mixture.training.resolve import find_recipe
        >>> "name: quickstart" in find_recipe("quickstart")
        True
    """
    path = Path(name)
    if path.is_file():
        with reading(path, "correct it"):
            return path.read_text(encoding="utf-8")
    packaged = {item.name: item for item in files("hf_mixture.recipes").iterdir() if item.name.endswith(".yaml")}
    if f"{name}.yaml" in packaged:
        return packaged[f"{name}.yaml"].read_text(encoding="utf-8")
    names = sorted(item.removesuffix(".yaml") for item in packaged)
    if name and path.is_dir():
        raise ValueError(f"recipe {name!r} is a folder; give the YAML file in it, or the name of a packaged recipe")
    nearest = difflib.get_close_matches(name.removesuffix(".yaml"), names, n=1, cutoff=0.5)
    known = f"; did you mean {nearest[0]!r}? Otherwise" if nearest else f" ({', '.join(names)});"
    raise ValueError(f"recipe {name!r} is not a file and not one of the packaged recipes{known} give a path")


def resolve_recipe(
    text: str, *, overrides: Sequence[tuple[str, Any]] = (), model: str | None = None, smoke: bool = False
) -> Recipe:
    """Read a recipe; what is given later wins: the file, its `smoke` section, `model`, `overrides`.

    Args:
        text: The YAML text. Its top-level key `smoke` maps key paths to the values of a run of seconds.
        overrides: Pairs of key path and value.
        model: A Hub id or folder that replaces the base model and its tokenizer.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    given = [] if model is None else [("model", {"from_pretrained": model}), ("tokenizer", {})]
    values = recipe_values(text, overrides=[*given, *overrides], smoke=smoke)
    check_command(values, "train")
    recipe = build(Recipe, values, "")
    _check(recipe)
    return recipe


def recipe_values(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> dict[str, Any]:
    """Read the text of a recipe and apply what was given besides: the `smoke` section first, then `overrides`.

    Args:
        text: The YAML text.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section, which maps key paths to values.

    Returns:
        The values, without the section.

    Raises:
        ValueError: If the text is not a mapping, or `smoke` is asked for and there is no such section.

    Example:
        >>> from hf_mixture.training.resolve import recipe_values
        >>> recipe_values("{steps: 100, smoke: {steps: 2}}", smoke=True)
        {'steps': 2}
    """
    values = parse_yaml(text)
    if not isinstance(values, dict):
        found = "empty" if values is None else repr(values)
        raise ValueError(f"the recipe is {found}; it must be a mapping of keys to values")
    small = values.pop("smoke", None) or {}
    if smoke and not small:
        raise ValueError("the recipe has no section 'smoke', so --smoke has nothing to apply; use overrides instead")
    for path, value in [*(small.items() if smoke else ()), *overrides]:
        apply_override(values, path, value)
    return values


def training_argument_values(recipe: Recipe, stage: StageSpec, learning_rate: float | None = None) -> dict[str, Any]:
    """Return the training arguments of a stage with the defaults of this package filled in.

    Args:
        recipe: The recipe.
        stage: The stage.
        learning_rate: One rate of the grid. Defaults to the one in the stage's arguments.

    Returns:
        Fields of `TrainingArguments`, without those that name a place.
    """
    values = filled_arguments(stage.training_arguments, recipe.seed)
    return values if learning_rate is None else values | {"learning_rate": learning_rate}


def filled_arguments(given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return fields of `TrainingArguments` with the defaults of this package filled in.

    Args:
        given: The fields that a recipe gives, `max_steps` among them.
        seed: The seed, unless they have one.

    Returns:
        The fields, without those that name a place.
    """
    import torch

    steps = given["max_steps"]
    logging = given.get("logging_steps", max(1, steps // 40))
    return {
        "seed": seed,
        "report_to": "none",
        "disable_tqdm": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": logging,
        # A multiple of the logging interval: a resumed run then logs the same averages as an uninterrupted one.
        "save_steps": logging * max(1, round(steps / 10 / logging)) if isinstance(logging, int) else 500,
        "save_total_limit": 2,
        "eval_strategy": "steps",
        "eval_steps": max(1, steps // 8),
        **given,
        "train_sampling_strategy": "sequential",
    }


def _check(recipe: Recipe) -> None:
    _check_model(recipe)
    _check_numbers(recipe)
    for section in ("domains", "adapters"):
        check_folder_names(section, getattr(recipe, section))
    for name, values in recipe.domains.items():
        source_of(name, values)
    for name, stage in recipe.stages.items():
        _check_stage(name, stage, recipe.domains)
        recipe.mixture(name)
    if not recipe.adapt.learning_rates:
        raise ValueError("adapt.learning_rates is empty; give at least one rate")
    if "learning_rate" in recipe.adapt.training_arguments:
        raise ValueError("adapt.training_arguments has 'learning_rate'; the rates are adapt.learning_rates")
    for name, values in recipe.adapters.items():
        if name in BASE_ROWS:
            raise ValueError(f"an adapter is called {name!r}, as a row of the table is; choose another name")
        peft_config(name, values)


def _check_model(recipe: Recipe) -> None:
    model, tokenizer = recipe.model, recipe.tokenizer
    kinds = [kind for kind in ("from_pretrained", "from_config", "from_wheel") if getattr(model, kind) is not None]
    if len(kinds) != 1:
        raise ValueError(
            f"model has {' and '.join(kinds) or 'no source'}; give exactly one of from_pretrained, from_config and "
            "from_wheel"
        )
    if model.dtype not in DTYPES:
        raise ValueError(f"model.dtype is {model.dtype!r}; choose one of {', '.join(DTYPES)}")
    if tokenizer.from_pretrained and tokenizer.train_bpe:
        raise ValueError("tokenizer has from_pretrained and train_bpe; give one of them")
    if model.from_config is not None and tokenizer == TokenizerSpec():
        raise ValueError("tokenizer is empty and model.from_config has none of its own; add tokenizer.train_bpe")
    if model.from_config is None and tokenizer.train_bpe:
        raise ValueError("tokenizer.train_bpe does not fit a pretrained model, which knows its own tokens; remove it")
    if model.from_config is not None:
        check_model_config(model.from_config, "model.from_config")


def _check_numbers(recipe: Recipe) -> None:
    limits = {"block_size": (recipe.block_size, 2), "seed": (recipe.seed, 0)}
    if recipe.document_bytes is not None:
        limits["document_bytes"] = (recipe.document_bytes, 1)
    if recipe.tokenizer.train_bpe is not None:
        # The 256 bytes and the separator.
        limits["tokenizer.train_bpe.vocab_size"] = (recipe.tokenizer.train_bpe.vocab_size, 257)
        limits["tokenizer.train_bpe.max_bytes"] = (recipe.tokenizer.train_bpe.max_bytes, 1)
    limits |= {f"evaluation.{name}": (value, 1) for name, value in dataclasses.asdict(recipe.evaluation).items()}
    check_least(limits)


def check_least(limits: Mapping[str, tuple[float | None, float]]) -> None:
    """Refuse a number that is too small.

    Args:
        limits: Place of the number in the recipe to the number and the least that it may be; None is not given.

    Raises:
        ValueError: If a number is smaller.
    """
    for name, (value, least) in limits.items():
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse a list of seeds that is empty, or has one twice or below 0.

    Args:
        seeds: The seeds.

    Raises:
        ValueError: If there is such a fault.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds is {seeds}; give at least one, each once, none below 0")


def check_arguments(where: str, values: Mapping[str, Any], build_object: Callable[..., Any]) -> None:
    """Refuse keyword arguments that an object cannot be built with.

    Args:
        where: Their place in the recipe, for messages.
        values: The arguments.
        build_object: Its class, which checks them.

    Raises:
        ValueError: If a name is unknown, or the class refuses a value.
    """
    check_names(values, inspect.signature(build_object).parameters, where)
    try:
        build_object(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def check_folder_names(section: str, values: Mapping[str, Any]) -> None:
    """Refuse an empty section of a recipe, and names in it that cannot be names of folders."""
    if not values:
        raise ValueError(f"{section} is empty; give at least one entry")
    for name in values:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"{section} has the name {name!r}, which becomes the name of a folder; use letters, digits, '_', '-' "
                "and '.', and begin with one of the first three"
            )


def check_model_config(values: Mapping[str, Any], where: str, *, example: str = "llama") -> None:
    """Refuse the configuration of a new model whose type or fields transformers does not know.

    Args:
        values: `model_type` and fields of its configuration.
        where: Their place in the recipe, for messages.
        example: A model type, for messages.

    Raises:
        ValueError: If the type is missing or unknown, a field is, or the size of the vocabulary is given.
    """
    from transformers import CONFIG_MAPPING

    if "model_type" not in values:
        raise ValueError(f"{where} has no 'model_type'; add it, for example model_type: {example}")
    if values["model_type"] not in CONFIG_MAPPING:
        check_names([values["model_type"]], list(CONFIG_MAPPING), "the model types of transformers")
    if "vocab_size" in values:
        raise ValueError(f"{where} has 'vocab_size', which the tokenizer decides; remove it")
    known = {item.name for item in dataclasses.fields(CONFIG_MAPPING[values["model_type"]])}
    check_names(values, {"model_type", *known}, where)


def _check_stage(name: str, stage: StageSpec, domains: Mapping[str, Any]) -> None:
    check_training_arguments(stage.training_arguments, f"{name}.training_arguments")
    check_names(stage.mixture.weights, domains, f"{name}.mixture.weights")


def check_training_arguments(given: Mapping[str, Any], where: str, owned: Collection[str] = OWNED_ARGUMENTS) -> None:
    """Refuse training arguments that do not exist, that the run decides, or that give no number of steps.

    Args:
        given: Fields of `TrainingArguments`.
        where: Their place in the recipe, for messages.
        owned: Those that the run decides.

    Raises:
        ValueError: If a name is unknown or decided by the run, or `max_steps` is not a number of steps.
    """
    from transformers import TrainingArguments

    known = {item.name for item in dataclasses.fields(TrainingArguments) if item.init}
    for name in given:
        if name in owned:
            raise ValueError(f"{where} has {name!r}, which the run decides; remove it")
    check_names(given, known.difference(owned), where)
    steps = given.get("max_steps")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"{where}.max_steps is {steps!r}; give the number of steps, at least 1")


def peft_config(name: str, values: Mapping[str, Any] | None) -> Any:
    """Build the PEFT configuration of one adapter.

    Args:
        name: Name of the adapter in the recipe.
        values: `peft_type` and fields of its configuration, or None.

    Returns:
        The configuration, or None when all weights are trained.

    Raises:
        ValueError: If the type or a field is unknown or breaks a rule of the type.

    Example:
        >>> from hf_mixture.training.resolve import peft_config
        >>> peft_config("lora", {"peft_type": "LORA", "r": 4}).r
        4
    """
    if values is None:
        return None
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    where = f"adapters.{name}"
    types = {str(getattr(member, "value", member)): member for member in PEFT_TYPE_TO_CONFIG_MAPPING}
    if not isinstance(values, Mapping) or "peft_type" not in values:
        raise ValueError(f"{where} is {values!r}; it needs a peft_type, for example {{peft_type: MOS}}, or null")
    if values["peft_type"] not in types:
        check_names([values["peft_type"]], types, f"the adapter types of PEFT ({where}.peft_type)")
    config_cls = PEFT_TYPE_TO_CONFIG_MAPPING[types[values["peft_type"]]]
    check_names(values, {"peft_type"} | {item.name for item in dataclasses.fields(config_cls)}, where)
    fields_given = {key: value for key, value in values.items() if key != "peft_type"}
    return config_cls(**{"task_type": "CAUSAL_LM"} | fields_given)
