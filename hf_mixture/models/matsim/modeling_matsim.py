"""MatSim: an encoder of images with masks whose embeddings rank materials by similarity.

Letters: B images, H x W pixels, F features of the backbone, D embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from hf_mixture.models.matsim.configuration_matsim import NUM_CHANNELS, MatSimConfig
from hf_mixture.models.matsim.gathering import gather_batch, num_processes, with_gradient_of_all
from hf_mixture.models.matsim.ranking import info_nce_loss, margin_ranking_loss, soft_labels
from hf_mixture.models.matsim.widening import widen_patch_embedding, zero_mask_channel


logger = logging.get_logger(__name__)


@dataclass
class MatSimOutput(ModelOutput):
    """What a forward pass of MatSim returns.

    Args:
        loss: The loss, where `set_ids` and `ratios` are given.
        image_embeds: Embeddings of length 1 [B, D].
        pooler_output: Features of the backbone before the projection [B, F].
        num_terms: Number of triplets that count in the loss; for `"info_nce"` pairs.
    """

    loss: Tensor | None = None
    image_embeds: Tensor | None = None
    pooler_output: Tensor | None = None
    num_terms: Tensor | None = None


class MatSimModel(PreTrainedModel):
    """Embeddings of the material under a mask; cosines rank materials by similarity (arXiv 2212.00648).

    A vision backbone sees RGB and the mask as four channels; its pooled output is projected and brought to length 1. A
    new model is blind to the mask, whose weights begin at zero. With `set_ids` and `ratios` of a batch of whole
    material sets the output has the ranking loss, so that a stock Trainer trains it; `MaterialBatchSampler` makes such
    batches. `MatSimTrainer` does both; the stock one reports an evaluation loss with
    `label_names=["set_ids", "ratios"]`.

    Args:
        config: The configuration.

    Raises:
        ValueError: The configuration breaks a rule.

    Example:
        >>> import torch
        >>> from transformers import ConvNextConfig
        >>> from hf_mixture import MatSimConfig, MatSimModel
        >>> backbone = ConvNextConfig(num_channels=4, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32])
        >>> model = MatSimModel(MatSimConfig(backbone_config=backbone, embedding_size=16))
        >>> out = model(torch.rand(3, 4, 32, 32), set_ids=torch.tensor([0, 0, 1]), ratios=torch.tensor([0, 0.5, 0]))
        >>> tuple(out.image_embeds.shape), out.loss.shape
        ((3, 16), torch.Size([]))
    """

    config_class = MatSimConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    # The Trainer divides by its accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: MatSimConfig) -> None:
        config.check_sizes()
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        self.projection = nn.Linear(config.size_of_features, config.embedding_size)
        self.post_init()
        zero_mask_channel(self.backbone)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.projection:
            init.normal_(self.projection.weight, std=0.02)
            init.zeros_(self.projection.bias)

    @classmethod
    def from_backbone(cls, backbone: Any, **fields: Any) -> Self:
        """Build a model on a pretrained backbone of three channels, which is widened in place.

        Args:
            backbone: A vision model of transformers, with or without a head, which is left out; or a folder or Hub id.
            fields: Fields of `MatSimConfig` besides `backbone_config`.

        Returns:
            The model; its projection is new.
        """
        given = isinstance(backbone, PreTrainedModel)
        model = backbone.base_model if given else AutoModel.from_pretrained(backbone)
        model = widen_patch_embedding(model)
        built = cls(MatSimConfig(backbone_config=model.config, **fields)).to(model.dtype)
        built.backbone = model
        return built

    def train(self, mode: bool = True) -> Self:
        """Switch to training; batch normalisation keeps its statistics where the configuration says so."""
        super().train(mode)
        if mode and self.config.freeze_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(
        self,
        pixel_values: Tensor,
        set_ids: Tensor | None = None,
        ratios: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MatSimOutput | tuple[Any, ...]:
        """Embed images.

        Args:
            pixel_values: Normalised RGB and the mask, 0 or 1 [B, 4, H, W]; `MatSimImageProcessor` makes them.
            set_ids: Material set of each image [B], for the loss.
            ratios: Mixing ratio of each image in its set [B], from 0 to 1, for the loss.
            return_dict: Whether to return a `MatSimOutput` rather than a tuple. Default: as the configuration says.

        Returns:
            The output.

        Raises:
            ValueError: The inputs do not fit the model or one another.
        """
        if pixel_values.dim() != 4 or pixel_values.shape[1] != NUM_CHANNELS:
            raise ValueError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}; it must be [B, {NUM_CHANNELS}, H, W], RGB "
                "and the mask, as MatSimImageProcessor makes it"
            )
        pooled = self._pooled(pixel_values)
        embeds = normalize(self.projection(pooled), dim=-1)
        loss = num_terms = None
        if set_ids is not None or ratios is not None:
            loss, num_terms = self._loss(embeds, *_checked_labels(set_ids, ratios, len(pixel_values)))
        output = MatSimOutput(loss=loss, image_embeds=embeds, pooler_output=pooled, num_terms=num_terms)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _pooled(self, pixel_values: Tensor) -> Tensor:
        out = self.backbone(pixel_values, return_dict=True)
        pooled = getattr(out, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden = out.last_hidden_state
        return hidden.mean(dim=(2, 3) if hidden.dim() == 4 else 1)

    def _loss(self, embeds: Tensor, set_ids: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
        gathers = self.config.gather_across_processes and num_processes() > 1 and self.training
        if gathers:
            embeds, set_ids, ratios = gather_batch([embeds, set_ids, ratios])
        labels = soft_labels(set_ids, ratios)
        if self.training and int((labels > 0).sum()) <= len(labels):
            logger.warning_once(
                "No two images of a batch are of one material set, so the loss is 0; batches of whole sets come from "
                "MatSimTrainer or MaterialBatchSampler."
            )
        similarities = embeds @ embeds.T
        if self.config.objective == "info_nce":
            loss, num_terms = info_nce_loss(similarities, labels, temperature=self.config.temperature)
        else:
            loss, num_terms = margin_ranking_loss(
                similarities, labels, temperature=self.config.temperature, margin_mode=self.config.margin_mode
            )
        return (with_gradient_of_all(loss) if gathers else loss), num_terms


def _checked_labels(set_ids: Tensor | None, ratios: Tensor | None, num_images: int) -> tuple[Tensor, Tensor]:
    if set_ids is None or ratios is None:
        missing = "set_ids" if set_ids is None else "ratios"
        raise ValueError(f"{missing} is None; the loss needs set_ids and ratios, so give both or neither")
    for name, values in (("set_ids", set_ids), ("ratios", ratios)):
        if values.shape != (num_images,):
            raise ValueError(
                f"{name} has the shape {tuple(values.shape)}, and there are {num_images} images; give one number for "
                "each image"
            )
    outside = ~((ratios >= 0) & (ratios <= 1))
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(f"ratios[{row}]={float(ratios[row]):g} must be from 0 to 1; correct the label of that image")
    return set_ids, ratios
