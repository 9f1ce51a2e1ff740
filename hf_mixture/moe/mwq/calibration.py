"""Second moments of what experts and linear layers are given, while the full-precision model reads text.

Letters: E experts, T tokens, K experts of a token, C inputs of a matrix, g columns of a group, G = C / g.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.experts import matrix_names, weight_shape


def collect_moments(
    model: nn.Module,
    experts: Mapping[str, nn.Module],
    batches: Iterable[Mapping[str, Any]],
    config: MwqConfig,
    *,
    whole: bool,
    max_bytes: int,
) -> Iterator[dict[str, Tensor]]:
    """Collect the second moments of the inputs of expert matrices, a few layers at a time.

    Args:
        model: The model, in full precision; it is put into eval mode for this.
        experts: Its stock experts modules, and linear layers, by path.
        batches: Keyword arguments of forward calls.
        config: The group size.
        whole: Whether all of X X^T is needed, or only its blocks of g columns.
        max_bytes: Memory for moments; one layer is always collected.

    Yields:
        Moments by the name of the matrix: [E, C, C], or [E, G, g, g].

    Raises:
        ValueError: If there are no batches.
    """
    was_training = model.training
    model.eval()
    try:
        for paths in _portions(experts, config, whole, max_bytes):
            recorder = _Recorder({path: experts[path] for path in paths}, config.group_size, whole)
            num_batches = 0
            with recorder:
                for batch in tqdm(batches, desc="Calibrating", unit="batch", delay=2):
                    model(**batch)
                    num_batches += 1
            if not num_batches:
                raise ValueError("batches is empty, or can be iterated over only once; give a list of batches")
            yield recorder.moments
    finally:
        model.train(was_training)


def _portions(experts: Mapping[str, nn.Module], config: MwqConfig, whole: bool, max_bytes: int) -> Iterator[list[str]]:
    portion: list[str] = []
    used = 0
    for path, module in experts.items():
        size = sum(
            4 * math.prod(shape) // shape[-2] * (shape[-1] if whole else config.group_size)
            for shape in _shapes(module)
        )
        if portion and used + size > max_bytes:
            yield portion
            portion, used = [], 0
        portion.append(path)
        used += size
    yield portion


def _shapes(module: nn.Module) -> list[tuple[int, ...]]:
    if isinstance(module, nn.Linear):
        return [tuple(module.weight.shape)]
    return [weight_shape(module, name) for name in matrix_names(module)]


class _Recorder:
    """Runs the experts one by one, as their eager forward does, and adds up what each matrix is given."""

    def __init__(self, experts: Mapping[str, nn.Module], group_size: int, whole: bool) -> None:
        self.moments: dict[str, Tensor] = {}
        self._experts = experts
        self._group_size = group_size
        self._whole = whole
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        for path, module in self._experts.items():
            hook = self._hook(path)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if isinstance(module, nn.Linear):
                self._add_to(f"{path}.weight", (), args[0].flatten(0, -2))
                return
            names = ("hidden_states", "top_k_index", "top_k_weights")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            self._record(path, module, given["hidden_states"], given["top_k_index"])

        return hook

    @torch.no_grad()
    def _record(self, path: str, module: Any, hidden: Tensor, index: Tensor) -> None:
        up, down = matrix_names(module)
        for expert in index.unique().tolist():
            if expert >= module.num_experts:
                continue
            tokens = hidden[(index == expert).any(-1)]
            weight = getattr(module, up)[expert]
            inner = tokens @ (weight if module.is_transposed else weight.T)
            if module.has_bias:
                inner = inner + getattr(module, f"{up}_bias")[expert]
            inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
            self._add_to(f"{path}.{up}", (module.num_experts,), tokens, expert)
            self._add_to(f"{path}.{down}", (module.num_experts,), inner, expert)

    def _add_to(self, name: str, lead: tuple[int, ...], inputs: Tensor, expert: int | None = None) -> None:
        values = inputs.detach().float()
        if not self._whole:
            values = values.unflatten(-1, (-1, self._group_size)).transpose(0, 1)
        if name not in self.moments:
            size = values.shape[-1]
            self.moments[name] = torch.zeros(*lead, *values.shape[:-2], size, size, device=inputs.device)
        moments = self.moments[name] if expert is None else self.moments[name][expert]
        moments += values.mT @ values
