"""The model that a candidate of a recipe begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_mixture.training.matsim.recipe import MatSimRecipe


def build_model(recipe: MatSimRecipe, candidate: str, seed: int) -> Any:
    """Build the model of a candidate before training; candidates of one seed begin alike.

    Args:
        recipe: The recipe.
        candidate: Name of the candidate.
        seed: Seed of what is new in it.

    Returns:
        The model.
    """
    from transformers import AutoConfig, AutoModel, set_seed

    from hf_mixture.models.matsim.configuration_matsim import NUM_CHANNELS, MatSimConfig
    from hf_mixture.models.matsim.modeling_matsim import MatSimModel

    fields = recipe.model | recipe.candidates[candidate]
    backbone = recipe.backbone
    set_seed(seed)
    if backbone.from_config is not None:
        values = dict(backbone.from_config)
        config = AutoConfig.for_model(values.pop("model_type"), **values | {"num_channels": NUM_CHANNELS})
        return MatSimModel(MatSimConfig(backbone_config=config, **fields))
    if backbone.from_wheel is not None:
        from hf_mixture.training.mobilenet import load_mobilenet

        return MatSimModel.from_backbone(load_mobilenet(), **fields)
    return MatSimModel.from_backbone(AutoModel.from_pretrained(backbone.from_pretrained), **fields)
