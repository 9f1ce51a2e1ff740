"""What the routers of a model decide in each training forward, padding marked.

Letters: T tokens, B sequences, S positions, K chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_mixture.moe.anatomy import MoeRouter, RouterOutput, find_routers
from hf_mixture.moe.anatomy.call_inputs import named_inputs, padding_mask_of
from hf_mixture.moe.routers.noisy import NoisyTopkRouter


class Decision(NamedTuple):
    """One call of a router.

    Args:
        output: What it decided for T tokens.
        load: Probability that each expert is chosen [T, E], from a noisy router that is asked for it.
    """

    output: RouterOutput
    load: Tensor | None


Decisions = Sequence[Sequence[Decision]]


class RouterTap:
    """Hands over what the routers decided, at the end of each forward of the model in training mode.

    What happens outside that forward does not count, so that gradient checkpointing, which runs layers again during
    the backward, does not count tokens twice.

    Args:
        model: The model that is called, not wrapped by DDP or the like.
        receive: Called with the decisions, a list for each router of `routers` with one entry for each call of it, and
            the attention mask [B, S] of the forward, None where all tokens count.

    Attributes:
        routers (`tuple[MoeRouter, ...]`): The routers of the model.
    """

    def __init__(self, model: nn.Module, receive: Callable[[Decisions, Tensor | None], None]) -> None:
        self.routers: tuple[MoeRouter, ...] = find_routers(model)
        self._model = model
        self._receive = receive
        self._decisions: list[list[Decision]] | None = None
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Begin to listen."""
        for place, router in enumerate(self.routers):
            self._handles += router.observe(lambda output, place=place: self._note(place, output))  # type: ignore[misc]
        self._handles.append(self._model.register_forward_pre_hook(self._begin))
        self._handles.append(self._model.register_forward_hook(self._end, with_kwargs=True))

    def remove(self) -> None:
        """Stop listening, and leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._decisions = None

    def _begin(self, model: nn.Module, args: Any) -> None:
        self._decisions = [[] for _ in self.routers] if model.training else None

    def _note(self, place: int, output: RouterOutput) -> None:
        if self._decisions is None:
            return
        module, load = self.routers[place].module, None
        if isinstance(module, NoisyTopkRouter):
            load, module.load = module.load, None
        self._decisions[place].append(Decision(output, load))

    def _end(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        decisions, self._decisions = self._decisions, None
        if decisions is None:
            return
        mask = padding_mask_of(named_inputs(model, args, kwargs))
        if mask is not None:
            for router, calls in zip(self.routers, decisions, strict=True):
                for call in calls:
                    _check_tokens(router, call.output, mask)
        self._receive(decisions, mask)


def _check_tokens(router: MoeRouter, call: RouterOutput, mask: Tensor) -> None:
    if len(call.logits) != mask.numel():
        raise ValueError(
            f"{router.path} routed {len(call.logits)} tokens, but attention_mask has {mask.numel()} positions "
            f"{list(mask.shape)}, so that padding cannot be left out; only routers that see every position of "
            "input_ids once are supported"
        )
