"""The registry of routers: one decorator to add an entry, one function to list them.

How to add a router. Write one file in this package with a pure function from tensors to `RouterOutput`, and a class
below `RegistryRouter` (or `LinearRouter`, which owns the usual weight [E, H]) that calls it:

    @register_router(
        "uniform",
        causal=True,
        paper="https://example.org/paper",
        summary="Every token to the same K experts.",
    )
    class UniformRouter(LinearRouter):
        def __init__(self, shape: RouterShape, *, first: int = 0) -> None:
            super().__init__(shape)
            if not 0 <= first <= self.num_experts - self.top_k:
                raise ValueError(f"first={first} must be ...; give ...")
            self.first = first

        def route(self, hidden: Tensor) -> RouterOutput:
            return route_uniform(self.logits(hidden), self.top_k, first=self.first)

and import the file in `hf_mixture/moe/routers/__init__.py`. What the rest relies on:

- The keyword-only arguments of `__init__` are the options of the router. They are JSON values, are checked there (one
  ValueError: argument, value, rule, remedy), and are what a saved configuration stores. Parameters are created there
  with `nn.Parameter(torch.empty(...))`, and get their values in `reset_parameters`, by functions of `torch.nn.init`
  only: loading relies on both.
- `route` gets hidden states [T, H] and returns raw logits [T, E], never probabilities, weights [T, K] and indices
  [T, K]. A router with fewer experts for some tokens fills up with index E and weight 0, and says so in `pads`.
- A router that needs more than hidden states names the batch keys in `context=(...)`, and reads
  `self.context.per_token(key, num_tokens)`. `"input_ids"` stays among the arguments of the model; other keys are taken
  out of them before the forward of the model runs.
- A router whose choice depends on later tokens is `causal=False`; causal language models then refuse it.
- `selection_rule` returns the formula as data where there is one, for expert edits and reports.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar


if TYPE_CHECKING:
    from hf_mixture.moe.routers.base import RegistryRouter

_RouterClass = TypeVar("_RouterClass", bound="type[RegistryRouter]")
_ROUTERS: dict[str, RouterInfo] = {}


@dataclass(frozen=True, kw_only=True)
class RouterInfo:
    """One entry of the registry.

    Args:
        name: Name for `replace_routers`.
        causal: Whether the choice for a token ignores later tokens.
        context: Keys of the batch that the router reads besides hidden states.
        paper: Address of the paper.
        summary: What it computes, in one line.
        router_class: The module.

    Example:
        >>> from hf_mixture import list_routers
        >>> (top_p,) = (router for router in list_routers() if router.name == "top_p")
        >>> top_p.options
        {'threshold': 0.4, 'max_experts': None, 'normalise': False, 'bias': False}
    """

    name: str
    causal: bool
    context: tuple[str, ...]
    paper: str
    summary: str
    router_class: type[RegistryRouter] = field(repr=False)

    @property
    def options(self) -> dict[str, Any]:
        """The options and their defaults; `inspect.Parameter.empty` where there is none."""
        parameters = inspect.signature(self.router_class.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the options by their defaults.

        Args:
            options: What the user gives.

        Returns:
            A value for every option.

        Raises:
            ValueError: If an option is unknown, or one without a default is missing.
        """
        known = self.options
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                listed = ", ".join(known) or "none"
                raise ValueError(f"{name!r} is not an option of the router {self.name!r} (options: {listed}){hint}")
        resolved = {**known, **options}
        missing = [name for name, value in resolved.items() if value is inspect.Parameter.empty]
        if missing:
            raise ValueError(f"the router {self.name!r} needs the option {missing[0]!r}; give it")
        return resolved


def register_router(
    name: str, *, causal: bool, context: tuple[str, ...] = (), paper: str, summary: str
) -> Callable[[_RouterClass], _RouterClass]:
    """Make a class an entry of the registry.

    Args:
        name: Name for `replace_routers`, in lower case.
        causal: Whether the choice for a token ignores later tokens.
        context: Keys of the batch that the router reads besides hidden states.
        paper: Address of the paper.
        summary: What it computes, in one line.

    Returns:
        A decorator for a class below `RegistryRouter`.

    Raises:
        ValueError: If the name is taken.

    Example:
        >>> from hf_mixture.moe.anatomy import RouterOutput
        >>> from hf_mixture.moe.routers import LinearRouter, list_routers, register_router
        >>> @register_router("best_two", causal=True, paper="https://arxiv.org/abs/2006.16668", summary="Best two.")
        ... class BestTwoRouter(LinearRouter):
        ...     "Two experts for each token, whatever the top k of the model."
        ...     def route(self, hidden):
        ...         logits = self.logits(hidden)
        ...         best, indices = logits.topk(2, dim=-1)
        ...         return RouterOutput(logits, best.softmax(-1), indices)
        >>> "best_two" in [router.name for router in list_routers()]
        True
    """

    def register(router_class: _RouterClass) -> _RouterClass:
        if name in _ROUTERS:
            raise ValueError(
                f"name={name!r} is taken by {_ROUTERS[name].router_class.__qualname__}; give the router another name"
            )
        info = RouterInfo(
            name=name, causal=causal, context=context, paper=paper, summary=summary, router_class=router_class
        )
        _ROUTERS[name] = info
        router_class.info = info
        return router_class

    return register


def list_routers() -> tuple[RouterInfo, ...]:
    """List the routers of the registry.

    Returns:
        The entries, sorted by name.

    Example:
        >>> from hf_mixture import list_routers
        >>> [router.name for router in list_routers() if router.name.startswith("top")]
        ['top_p', 'topk_softmax']
    """
    return tuple(_ROUTERS[name] for name in sorted(_ROUTERS))


def router_info(name: str) -> RouterInfo:
    """Look up one entry.

    Args:
        name: Name of the router.

    Returns:
        The entry.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in _ROUTERS:
        near = difflib.get_close_matches(name, _ROUTERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"name={name!r} is no router of the registry; the routers are {', '.join(sorted(_ROUTERS))}{hint}"
        )
    return _ROUTERS[name]
