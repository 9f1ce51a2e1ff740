"""Configuration of a mixture of SuperNets."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_mixture.models.pooling_supernet.configuration_pooling_resnet import PoolingResNetConfig
from hf_mixture.models.pooling_supernet.paths import num_paths


@strict
class BalancedSuperNetConfig(PreTrainedConfig):
    """M networks with shared weights, each of which can pool along every path (arXiv 2306.11982).

    Args:
        network_config: What each network is, or its fields; its own `pooling_path` only names the default.
        num_models: M. 1 is single-path one-shot search.
        num_scales: S, number of resolutions of a path; at least 2.
        assignment: How a path finds its model: `"balanced"`, by scores and with even loads, as published; `"softmax"`,
            by scores alone; or `"uniform"`, by chance, so that all models are shared by all paths.
        max_temperature: tau at the end of the search; it rises linearly from 1. At least 1.
        score_decay: Share of the old score that is kept when a new accuracy comes in, from 0 to below 1.
        balance_tolerance: Largest KL divergence of the loads from even ones, in nats, above 0.

    Example:
        >>> from hf_mixture import BalancedSuperNetConfig
        >>> BalancedSuperNetConfig(num_models=4, num_scales=3).num_paths
        36
    """

    model_type = "balanced_supernets"
    sub_configs = {"network_config": PoolingResNetConfig}  # noqa: RUF012 - an attribute of transformers

    network_config: dict[str, Any] | PreTrainedConfig | None = None
    num_models: int = 2
    num_scales: int = 3
    assignment: Literal["balanced", "softmax", "uniform"] = "balanced"
    max_temperature: float | int = 100.0
    score_decay: float = 0.9
    balance_tolerance: float = 1e-4

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.network_config, PreTrainedConfig):
            self.network_config = PoolingResNetConfig(**self.network_config or {})
        # Pipelines read the names of the classes here.
        self.id2label, self.label2id = self.network_config.id2label, self.network_config.label2id
        for name in ("id2label", "label2id", "num_labels"):
            kwargs.pop(name, None)
        super().__post_init__(**kwargs)

    @property
    def network(self) -> PoolingResNetConfig:
        """What each network is."""
        assert isinstance(self.network_config, PoolingResNetConfig)  # noqa: S101 - made so above, or refused by `check`
        return self.network_config

    @property
    def num_paths(self) -> int:
        """P, number of paths."""
        return num_paths(self.network.num_layers, self.num_scales)

    def check(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            TypeError: `network_config` is of another kind.
            ValueError: A value is out of its range or does not fit the others.
        """
        if not isinstance(self.network_config, PoolingResNetConfig):
            raise TypeError(f"network_config is a {type(self.network_config).__name__}; give a PoolingResNetConfig")
        self.network.check()
        if self.network.track_running_stats:
            raise ValueError(
                "network_config has track_running_stats=True: running statistics that many paths share belong to none "
                "of them; search without, and set it in the network that is trained afterwards"
            )
        if self.num_models < 1:
            raise ValueError(f"num_models={self.num_models} must be at least 1; raise it")
        if not 2 <= self.num_scales <= self.network.num_layers:
            raise ValueError(
                f"num_scales={self.num_scales} must be from 2 to the number of layers, {self.network.num_layers}"
            )
        if self.num_models > self.num_paths:
            raise ValueError(
                f"num_models={self.num_models} is more than the {self.num_paths} paths that there are; use fewer"
            )
        if not 1 <= self.max_temperature < float("inf"):
            raise ValueError(f"max_temperature={self.max_temperature} must be a number of at least 1; raise it")
        if not 0 <= self.score_decay < 1:
            raise ValueError(f"score_decay={self.score_decay} must be at least 0 and below 1")
        if not self.balance_tolerance > 0:
            raise ValueError(f"balance_tolerance={self.balance_tolerance} must be above 0; raise it")
