"""Backbones with trained weights, by their concrete class.

`AutoBackbone.from_pretrained` asks the Hub whether a name exists before anything else, so that it refuses a local
folder and everything offline. `AutoConfig` does not, and says which class it is.
"""

from __future__ import annotations

from os import PathLike
from typing import Any


def load_pretrained_backbone(
    pretrained_model_name_or_path: str | PathLike[str], *, out_indices: list[int] | None = None
) -> Any:
    """Load a backbone from the Hub, its cache, or a folder.

    Args:
        pretrained_model_name_or_path: Hub id or folder of a backbone, or of a model that has it inside.
        out_indices: Stages whose maps it returns. Default: those of the saved configuration.

    Returns:
        The backbone.

    Raises:
        TypeError: If the model type is no backbone.
    """
    from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig

    place = str(pretrained_model_name_or_path)
    given = {} if out_indices is None else {"out_indices": out_indices}
    config = AutoConfig.from_pretrained(place, **given)
    try:
        cls = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    except KeyError:
        known = ", ".join(sorted(cls.model_type for cls in MODEL_FOR_BACKBONE_MAPPING))
        raise TypeError(
            f"{place} is a {config.model_type!r}, which is no backbone of transformers; the model types are {known}"
        ) from None
    return cls.from_pretrained(place, config=config)
