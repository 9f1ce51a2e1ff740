"""Configuration of a multimodal recommender."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# Smallest value of each size.
_LEAST = {"num_users": 1, "num_items": 2, "embedding_size": 1, "num_propagation_layers": 1, "num_edges": 0}


@strict
class MultiModalRecommenderConfig(PreTrainedConfig):
    """What makes a multimodal recommender: its catalogue, its modalities and its backbone.

    Args:
        num_users: U, number of users.
        num_items: I, number of items, at least 2.
        modality_sizes: Length of an item's vector in each modality, by name; at least one modality.
        backbone: `"vbpr"`, matrix factorisation with a modality branch; or `"lightgcn_mm"`, the same with identity
            rows that are propagated over the graph of retained interactions. Default: `"vbpr"`.
        embedding_size: d, length of an identity row, and of a projected modality vector. Default: 64.
        num_propagation_layers: Layers of the graph; `"vbpr"` ignores it. Default: 2.
        num_edges: Interactions of the graph that the model holds; `set_graph` sets it. Default: 0.
        penalty: Weight of the squared norm of the rows of a pair in the loss, at least 0. Default: 1e-3.

    Example:
        >>> from hf_mixture import MultiModalRecommenderConfig
        >>> MultiModalRecommenderConfig(num_users=4, num_items=9, modality_sizes={"image": 8, "audio": 2}).feature_size
        10
    """

    model_type = "mm_recommender"

    num_users: int = 1
    num_items: int = 2
    modality_sizes: dict[str, int] = field(default_factory=lambda: {"features": 1})
    backbone: Literal["vbpr", "lightgcn_mm"] = "vbpr"
    embedding_size: int = 64
    num_propagation_layers: int = 2
    num_edges: int = 0
    penalty: float = 1e-3

    def check_sizes(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            ValueError: If a value is out of its range, or the backbone is unknown.
        """
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}; raise it")
        if self.backbone not in ("vbpr", "lightgcn_mm"):
            raise ValueError(f"backbone={self.backbone!r} must be 'vbpr' or 'lightgcn_mm'; choose one of them")
        if not self.modality_sizes or any(size < 1 for size in self.modality_sizes.values()):
            raise ValueError(
                f"modality_sizes={self.modality_sizes} must name at least one modality, each of at least 1 number"
            )
        if not self.penalty >= 0:
            raise ValueError(f"penalty={self.penalty} must be at least 0; raise it")

    @property
    def feature_size(self) -> int:
        """Length of the vectors of all modalities together."""
        return sum(self.modality_sizes.values())

    def modality_slice(self, name: str) -> slice:
        """Where a modality lies in an item's features.

        Args:
            name: Name of the modality.

        Returns:
            Its columns.

        Raises:
            ValueError: If there is no such modality.
        """
        if name not in self.modality_sizes:
            raise ValueError(f"modality {name!r} is not one of {list(self.modality_sizes)}; name one of them")
        names = list(self.modality_sizes)
        start = sum(self.modality_sizes[other] for other in names[: names.index(name)])
        return slice(start, start + self.modality_sizes[name])
