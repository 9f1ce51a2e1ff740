"""What one proxy experiment is: model, length, optimizer, seed; plain values that can be hashed and compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
"""Learning-rate schedules of transformers that need no further settings."""


def tiny_llama(vocab_size: int = 256) -> dict[str, Any]:
    """The configuration of a Llama of about 0.1 M parameters: 2 layers, width 64, 4 heads.

    Args:
        vocab_size: Size of the vocabulary. Default: 256, one token a byte.
    """
    return {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }


@dataclass(frozen=True, kw_only=True)
class ProxySpec:
    """One proxy experiment, up to the mixture: everything that a loss depends on besides mixture and data.

    A run of fidelity f takes max(1, round(f * num_steps)) optimizer steps; its schedule spans those steps.

    Args:
        model: `model_type` and fields of a causal language model's configuration of transformers; the weights are
            drawn anew with `seed`. Default: `tiny_llama()`.
        num_steps: Optimizer steps of a run of fidelity 1, >= 1. Default: 500.
        batch_size: Samples of one step, >= 1. Default: 8.
        learning_rate: Peak learning rate of AdamW. Default: 1e-3.
        lr_scheduler_type: One of `SCHEDULES`. Default: "cosine".
        warmup_fraction: Share of the steps that warm up, in [0, 1]; rounded up to steps. Default: 0.1.
        weight_decay: Weight decay, on the parameters that the Trainer decays. Default: 0.
        adam_betas: Decay rates of the moments. Default: (0.9, 0.999).
        adam_epsilon: Epsilon of AdamW. Default: 1e-8.
        max_grad_norm: Gradients are scaled down to this norm. Default: 1.
        seed: Seed of the initial weights, and of the order of the samples. Default: 0.
        eval_samples: Validation samples used of each domain, the first ones; None: all. Default: None.
        eval_batch_size: Samples of one evaluation step, >= 1. Default: 32.

    Raises:
        ValueError: A value breaks its rule.

    Example:
        ```python
        >>> from hf_mixture.data.proxy import ProxySpec
        >>> spec = ProxySpec(num_steps=400, learning_rate=3e-3)
        >>> spec.steps(1.0), spec.steps(0.25)
        (400, 100)
        >>> ProxySpec.from_dict(spec.to_dict()) == spec
        True

        ```
    """

    model: Mapping[str, Any] = field(default_factory=tiny_llama)
    num_steps: int = 500
    batch_size: int = 8
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_fraction: float = 0.1
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 0
    eval_samples: int | None = None
    eval_batch_size: int = 32

    def __post_init__(self) -> None:
        if "model_type" not in self.model:
            raise ValueError(
                f"model={dict(self.model)!r} has no 'model_type'; name one of transformers, for example 'llama'"
            )
        for name in ("num_steps", "batch_size", "eval_batch_size", "eval_samples"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r} is not an integer >= 1; correct it")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed!r} is not an integer in [0, 2**32); choose another")
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value!r} is not a finite number above 0; correct it")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay={self.weight_decay!r} is not a finite number >= 0; correct it")
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError(
                f"warmup_fraction={self.warmup_fraction!r} lies outside [0, 1]; it is a share of the steps"
            )
        if self.lr_scheduler_type not in SCHEDULES:
            raise ValueError(
                f"lr_scheduler_type={self.lr_scheduler_type!r} is not one of {list(SCHEDULES)}; choose one"
            )
        object.__setattr__(self, "adam_betas", tuple(self.adam_betas))
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas={self.adam_betas!r} must be two numbers in [0, 1); correct them")

    @classmethod
    def for_tokens(cls, num_tokens: int, sample_length: int, **fields: Any) -> ProxySpec:
        """Return a spec whose full run reads at least `num_tokens` tokens.

        Args:
            num_tokens: Tokens of a run of fidelity 1, >= 1; rounded up to whole steps.
            sample_length: Tokens of one sample, >= 1.
            fields: Further fields.

        Returns:
            The spec.

        Raises:
            ValueError: A number is below 1, or a field breaks its rule.

        Example:
            ```python
            >>> from hf_mixture.data.proxy import ProxySpec
            >>> ProxySpec.for_tokens(1_000_000, sample_length=64, batch_size=16).num_steps
            977

            ```
        """
        if min(num_tokens, sample_length) < 1:
            raise ValueError(
                f"num_tokens={num_tokens!r} and sample_length={sample_length!r} must be at least 1; correct them"
            )
        batch_size = fields.get("batch_size", cls.batch_size)
        return cls(num_steps=-(-num_tokens // (sample_length * batch_size)), **fields)

    def steps(self, fidelity: float) -> int:
        """Return the optimizer steps of a run.

        Args:
            fidelity: Fraction of the full run, in (0, 1].
        """
        return max(1, round(fidelity * self.num_steps))

    def warmup_steps(self, num_steps: int) -> int:
        """Return how many steps of a run warm up.

        Args:
            num_steps: Optimizer steps of the run.
        """
        # Without the guard, 0.1 * 30 would round up to 4.
        return math.ceil(self.warmup_fraction * num_steps - 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**values, "model": dict(self.model), "adam_betas": list(self.adam_betas)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProxySpec:
        """Return the spec that `to_dict` described.

        Args:
            values: Fields by name.

        Raises:
            ValueError: A field is unknown or breaks its rule.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"a proxy spec has no fields {unknown}; it has {known}: correct the names")
        return cls(**values)
