"""The tokenizer and the base model that a recipe names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_mixture.training.recipe import ModelSpec, Recipe


SEPARATOR = "<|endoftext|>"


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer, which codes every text without loss.

    Args:
        texts: Training text.
        vocab_size: Most tokens, at least 257; fewer when the text has fewer pairs to merge.

    Returns:
        A fast tokenizer of transformers whose one special token separates documents.

    Example:
        >>> from hf_mixture.training.models import train_bpe
        >>> tokenizer = train_bpe(["to be or not to be"], vocab_size=260)
        >>> tokenizer.decode(tokenizer("naïve")["input_ids"])
        'naïve'
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SEPARATOR, eos_token=SEPARATOR)


def pretrained_place(model: ModelSpec) -> str:
    """Return the Hub id or folder of a pretrained model; an asset is converted into the cache first.

    Args:
        model: A model with `from_pretrained` or `from_wheel`.

    Returns:
        What `from_pretrained` takes.
    """
    if model.from_wheel is not None:
        from hf_mixture.training.assets import convert_wheel

        return str(convert_wheel(model.from_wheel))
    return str(model.from_pretrained)


def load_tokenizer(recipe: Recipe) -> Any:
    """Load the tokenizer of a recipe that does not train one."""
    from transformers import AutoTokenizer

    if recipe.tokenizer.from_pretrained is not None:
        return AutoTokenizer.from_pretrained(recipe.tokenizer.from_pretrained)
    model = recipe.model
    return AutoTokenizer.from_pretrained(
        pretrained_place(model), **_given(revision=model.revision, gguf_file=model.gguf_file)
    )


def model_config(recipe: Recipe, *, vocab_size: int, separator: int) -> Any:
    """Build the configuration of a base model that is made from a config.

    Args:
        recipe: A recipe with `model.from_config`.
        vocab_size: Number of tokens of the tokenizer.
        separator: Id of the token between documents, which begins and ends a text.

    Returns:
        The configuration.
    """
    return config_of(
        recipe.model.from_config or {}, vocab_size=vocab_size, separator=separator, block_size=recipe.block_size
    )


def config_of(values: Mapping[str, Any], *, vocab_size: int, separator: int, block_size: int) -> Any:
    """Build the configuration of a new model.

    Args:
        values: `model_type` and fields of its configuration.
        vocab_size: Number of tokens of the tokenizer.
        separator: Id of the token between documents, which begins and ends a text.
        block_size: Tokens in one training example: the positions, where `values` does not say.

    Returns:
        The configuration.
    """
    from transformers import CONFIG_MAPPING

    fields = dict(values)
    config_cls = CONFIG_MAPPING[fields.pop("model_type")]
    tokens = {"vocab_size": vocab_size, "bos_token_id": separator, "eos_token_id": separator, "pad_token_id": None}
    return config_cls(**tokens | {"max_position_embeddings": block_size} | fields)


def new_model(recipe: Recipe, *, vocab_size: int, separator: int) -> Any:
    """Build the base model of `model.from_config`; the weights depend on the recipe's seed alone."""
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(recipe.seed)
    return AutoModelForCausalLM.from_config(model_config(recipe, vocab_size=vocab_size, separator=separator))


def loading_arguments(model: ModelSpec) -> dict[str, Any]:
    """Return the keyword arguments of `from_pretrained` that the recipe asks for, as plain data."""
    return {"dtype": model.dtype} | _given(revision=model.revision, quantization=model.quantization)


def load_model(place: str | Path, arguments: dict[str, Any], **more: Any) -> Any:
    """Load a causal language model, or an adapter folder on its base model.

    Args:
        place: Hub id or folder.
        arguments: What `loading_arguments` returned.
        more: Further keyword arguments of `from_pretrained`.

    Returns:
        The model in evaluation mode.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    arguments = dict(arguments)
    quantization = arguments.pop("quantization", None)
    if quantization is not None:
        arguments["quantization_config"] = BitsAndBytesConfig(**quantization)
    return AutoModelForCausalLM.from_pretrained(str(place), **arguments, **more)


def load_gguf(place: str | Path, gguf_file: str, arguments: dict[str, Any]) -> Any:
    """Load a GGUF file as ordinary weights, which can be trained and saved.

    Args:
        place: Hub id or folder.
        gguf_file: Name of the file there.
        arguments: What `loading_arguments` returned.

    Returns:
        The model in evaluation mode.
    """
    from transformers import GgufConfig

    return load_model(place, arguments, gguf_file=gguf_file, quantization_config=GgufConfig(dequantize=True))


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
