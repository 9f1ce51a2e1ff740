"""Configuration of a Mixture of Thoughts."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


@strict
class MixtureOfThoughtsConfig(PreTrainedConfig):
    """What makes a Mixture of Thoughts: its experts, its interaction levels, its router and its objective.

    Several frozen language models ("experts") read the same text. A router picks `num_active_experts` of them for
    each prompt and names one the primary. After each of the first stacks of its layers the primary attends, in a
    shared space of width `latent_size`, to the hidden states of all active experts; only the router and these
    interaction layers are trained. arXiv 2509.21164.

    Args:
        experts: Configurations of the experts, or their dictionaries.
        references: Where each expert comes from: `name`, `revision`, `subfolder`, `dtype`, `sha256`.
        num_levels: Q, number of stacks of layers in each expert; at most the number of layers of the shallowest.
        interaction_after_last: Whether experts also interact after the last stack; the method has Q - 1 interactions
            without it.
        latent_size: Width of the shared space.
        num_heads: Attention heads there; `latent_size` must be a multiple.
        num_active_experts: K, number of experts for a prompt, the primary included.
        peer_decode: What peers read while the primary writes: `"prompt"`, the prompt only; `"stream"`, also what
            has been written, up to the last complete word.
        prompt_encoder: Configuration of a frozen text encoder, whose mean-pooled states the router reads. None:
            those of the first expert after its first stack, each normalised; the rest of it need not run.
        prompt_encoder_reference: Where the encoder comes from, as in `references`.
        router_hidden_size: Width of the two hidden layers of the router.
        router_dropout: Dropout of the router.
        router_temperature: Divides the scores of the router.
        selection_noise: Scale of the Gumbel noise on the scores while training.
        expert_dropout: Probability that a peer is left out of a training step.
        entropy_coefficient: Weight of minus the entropy of the router.
        balance_coefficient: Weight of the squared coefficient of variation of the routing probabilities.
        consistency_coefficient: Weight of the divergence between the answers under two noisy routings.
        expert_nll_coefficient: Weight of the divergence between the router and the softmax of the experts' own losses.
        expert_nll_temperature: Temperature of that softmax, in bits per byte.
        initializer_range: Standard deviation of new weights; the way back into the experts starts at zero.

    Example:
        >>> from transformers import GPT2Config, LlamaConfig
        >>> from hf_mixture import MixtureOfThoughtsConfig
        >>> experts = [LlamaConfig(num_hidden_layers=8), GPT2Config(n_layer=6)]
        >>> MixtureOfThoughtsConfig(experts=experts, num_levels=4).num_interactions
        3
    """

    model_type = "mixture_of_thoughts"

    experts: list[Any] | None = None
    references: list[dict[str, Any]] | None = None
    num_levels: int = 4
    interaction_after_last: bool = False
    latent_size: int = 768
    num_heads: int = 8
    num_active_experts: int = 3
    peer_decode: Literal["prompt", "stream"] = "prompt"
    prompt_encoder: Any = None
    prompt_encoder_reference: dict[str, Any] | None = None
    router_hidden_size: int = 256
    router_dropout: float = 0.1
    router_temperature: float = 1.0
    selection_noise: float = 1.0
    expert_dropout: float = 0.0
    entropy_coefficient: float = 0.01
    balance_coefficient: float = 0.01
    consistency_coefficient: float = 0.0
    expert_nll_coefficient: float = 0.0
    expert_nll_temperature: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.experts = [_as_config(expert) for expert in self.experts or []]
        self.prompt_encoder = None if self.prompt_encoder is None else _as_config(self.prompt_encoder)
        super().__post_init__(**kwargs)

    def check_sizes(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            ValueError: If a value does not fit the others, or the experts.
        """
        experts = self.experts or []
        if not experts:
            raise ValueError("experts is empty; a Mixture of Thoughts needs at least one expert")
        depths = [expert.get_text_config(decoder=True).num_hidden_layers for expert in experts]
        if not 1 <= self.num_levels <= min(depths):
            raise ValueError(
                f"num_levels={self.num_levels} must be from 1 to {min(depths)}, the number of layers of the "
                f"shallowest expert (they have {', '.join(map(str, depths))})"
            )
        if self.latent_size % self.num_heads:
            raise ValueError(f"latent_size={self.latent_size} must be a multiple of num_heads={self.num_heads}")
        if self.num_active_experts < 1:
            raise ValueError(f"num_active_experts={self.num_active_experts} must be at least 1")
        if self.router_temperature <= 0 or self.expert_nll_temperature <= 0:
            raise ValueError(
                f"router_temperature={self.router_temperature} and "
                f"expert_nll_temperature={self.expert_nll_temperature} must be above 0"
            )
        if not 0 <= self.expert_dropout < 1:
            raise ValueError(f"expert_dropout={self.expert_dropout} must be at least 0 and below 1")

    @property
    def num_interactions(self) -> int:
        """Number of interaction levels."""
        return self.num_levels if self.interaction_after_last else self.num_levels - 1

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        experts, encoder = self.experts, self.prompt_encoder
        self.experts, self.prompt_encoder = None, None
        try:
            values: dict[str, Any] = super().to_dict()
        finally:
            self.experts, self.prompt_encoder = experts, encoder
        values["experts"] = [expert.to_dict() for expert in experts or []]
        values["prompt_encoder"] = None if encoder is None else encoder.to_dict()
        return values


def _as_config(value: Any) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, dict) or "model_type" not in value:
        raise ValueError(f"an expert must be a configuration or its dictionary with a model_type, not {value!r}")
    values = dict(value)
    return AutoConfig.for_model(values.pop("model_type"), **values)
