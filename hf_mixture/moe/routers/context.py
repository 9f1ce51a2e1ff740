"""Tensors of the batch that routers read besides hidden states: token ids, tasks, modalities, attributes.

A block of a model hands its router nothing but hidden states. A forward pre-hook on the model therefore keeps the
tensors that the routers ask for, by their key in the batch, in one `RouterContext` that all of them share.

Letters: B sequences, S positions, T = B S tokens.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


# What models take themselves, so that it stays among their arguments.
_OF_THE_MODEL = ("input_ids", "attention_mask")


class RouterContext:
    """The tensors of the batch that is running, by key.

    Args:
        keys: Keys of the batch; `"input_ids"` and `"attention_mask"` stay among the arguments of the model, the others
            are taken out.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self._batch: dict[str, Tensor] = {}
        self._given: dict[str, Tensor] = {}
        self._depth = 0
        self._num_sequences: int | None = None
        # Forwards with checkpointed layers whose backward has not run them again.
        self._num_pending = 0
        self._ran_again = True

    @property
    def num_sequences(self) -> int:
        """B of the batch that is running: the first dimension of what the model gets."""
        if self._num_sequences is None:
            raise ValueError("the model got no tensor by which to know the number of sequences; pass input_ids")
        return self._num_sequences

    def find(self, key: str) -> Tensor | None:
        """The tensor of a key, None where the batch has none.

        Args:
            key: A key.

        Returns:
            The tensor, if any.

        Raises:
            ValueError: If a checkpointed layer runs again and this could be for either of two batches.
        """
        value = self._batch.get(key)
        if value is None:
            return self._given.get(key)
        if self._depth == 0:
            self._ran_again = True
            if self._num_pending > 1:
                raise ValueError(
                    f"{self._num_pending} training forwards ran before this backward, and layers that gradient "
                    f"checkpointing runs again cannot know the {key!r} of theirs; run the backward of each forward "
                    "before the next one, or turn gradient checkpointing off"
                )
        return value

    def token_mask(self, num_tokens: int) -> Tensor | None:
        """Which tokens are no padding, by `attention_mask`.

        Args:
            num_tokens: T.

        Returns:
            bool [T], or None where the batch has no mask. A mask that is longer than the tokens, as in generation with
            a cache, is that of the last ones.

        Raises:
            ValueError: If the mask is not of the form [B, positions], or shorter than the tokens.
        """
        mask = self.find("attention_mask")
        if mask is None:
            return None
        length = num_tokens // self.num_sequences
        if mask.dim() != 2 or mask.shape[1] < length:
            raise ValueError(
                f"attention_mask has the shape {tuple(mask.shape)} and the routers see {num_tokens} tokens; give a "
                "mask [batch, positions] with 1 at tokens and 0 at padding"
            )
        return mask[:, mask.shape[1] - length :].reshape(-1).bool()

    def get(self, key: str) -> Tensor:
        """The tensor of a key, as the batch has it.

        Args:
            key: A key.

        Returns:
            The tensor.

        Raises:
            ValueError: If the batch has none.
        """
        value = self.find(key)
        if value is None:
            raise ValueError(
                f"the routers need {key!r} in the batch, and this forward has none; pass {key}=... to the model (in "
                "training: let LevelDataCollator carry the column, with remove_unused_columns=False), or call it "
                f"inside `with routing_context(model, {key}=...)`"
            )
        return value

    def per_token(self, key: str, num_tokens: int, *, num_features: int = 0) -> Tensor:
        """The tensor of a key with one row for each token.

        Args:
            key: A key.
            num_tokens: T.
            num_features: Dimensions of an entry; 0 where it is a number.

        Returns:
            A tensor [T, ...]: the entries of [B, S, ...] in the order of the tokens, or those of [B, ...], each S
            times.

        Raises:
            ValueError: If the batch has none, or its shape fits neither way.
        """
        value = self.get(key)
        if value.dim() == num_features + 2 and value.shape[0] * value.shape[1] == num_tokens:
            return value.flatten(0, 1)
        if value.dim() == num_features + 1 and len(value) > 0 and num_tokens % len(value) == 0:
            return value.repeat_interleave(num_tokens // len(value), dim=0)
        raise ValueError(
            f"{key!r} has the shape {tuple(value.shape)} and the routers see {num_tokens} tokens; give one entry for "
            "each sequence [B, ...] or for each token [B, S, ...]"
        )

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Keep the tensors of every forward of a model.

        Args:
            model: The model that is called; models inside it may be attached as well.

        Returns:
            Handles; the `remove` of each detaches.
        """
        return [
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            model.register_forward_hook(self._leave, always_call=True),
        ]

    def _enter(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._depth == 0:
            self._batch.clear()
            named = (kwargs.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
            given = (value for value in (*named, *args, *kwargs.values()) if isinstance(value, Tensor) and value.dim())
            first = next(given, None)
            self._num_sequences = None if first is None else len(first)
            if model.training and torch.is_grad_enabled() and getattr(model, "is_activation_checkpointing", False):
                self._num_pending = 1 if self._ran_again else self._num_pending + 1
                self._ran_again = False
        self._depth += 1
        for key in self.keys:
            value = kwargs.get(key) if key in _OF_THE_MODEL else kwargs.pop(key, None)
            if value is None and args and key == _first_argument(type(model)):
                value = args[0]
            if isinstance(value, Tensor):
                self._batch[key] = value
        return args, kwargs

    def _leave(self, model: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1
        # Gradient checkpointing runs the layers again during the backward, when the forward is over.
        if self._depth == 0 and not torch.is_grad_enabled():
            self._batch.clear()

    def __getstate__(self) -> dict[str, Any]:
        return vars(RouterContext(self.keys))

    @contextlib.contextmanager
    def given(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Lend tensors for the forwards of a `with` block that do not bring their own.

        Args:
            values: Tensors by key.

        Yields:
            Nothing.
        """
        before = self._given
        self._given = {**before, **values}
        try:
            yield
        finally:
            self._given = before


def _first_argument(model_class: type[nn.Module]) -> str | None:
    parameters = list(inspect.signature(model_class.forward).parameters)
    return parameters[1] if len(parameters) > 1 else None


@contextlib.contextmanager
def routing_context(model: nn.Module, **tensors: Tensor) -> Iterator[None]:
    """Give the routers of a model tensors that its caller cannot pass, such as `generate`.

    A forward that brings a tensor of the same key uses its own.

    Args:
        model: A model whose routers read a context.
        tensors: Tensors by key, with one entry for each sequence [B, ...] or each token [B, S, ...].

    Yields:
        Nothing; the tensors are lent until the end of the `with` block.

    Raises:
        ValueError: If no router of the model reads one of the keys.

    Example:
        >>> import torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture.moe.routers import replace_routers, routing_context
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = MixtralForCausalLM(config)
        >>> replaced = replace_routers(model, "hash")
        >>> ids = torch.tensor([[3, 1, 4]])
        >>> with routing_context(model, input_ids=ids):
        ...     logits = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
        >>> torch.equal(logits, model(ids).logits)
        True
    """
    contexts = contexts_of(model)
    known = {key for context in contexts for key in context.keys}
    for key in tensors:
        if key not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ValueError(f"no router of the model reads {key!r} (keys: {listed}); leave it out")
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context.given({key: tensors[key] for key in context.keys if key in tensors}))
        yield


def contexts_of(model: nn.Module) -> list[RouterContext]:
    """The contexts of the routers inside a model.

    Args:
        model: Any module.

    Returns:
        Each context once.
    """
    found = (getattr(module, "context", None) for module in model.modules())
    return list({id(context): context for context in found if isinstance(context, RouterContext)}.values())
