"""TaskExpert: one logits map for each task, by experts that gates assemble and a memory that each level rewrites.

Letters: B images, T tasks, L levels, E experts, D channels of a level, C channels of a logits map, H x W pixels, h x w
positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoBackbone, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_mixture.models.taskexpert.backbones import load_pretrained_backbone
from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig
from hf_mixture.models.taskexpert.inputs import check_labels, check_pixels
from hf_mixture.models.taskexpert.layers import Gate, Head
from hf_mixture.models.taskexpert.losses import mask_labels, task_loss
from hf_mixture.models.taskexpert.mixture import MemorialMixture


@dataclass
class TaskExpertOutput(ModelOutput):
    """What a forward pass of a TaskExpert returns.

    Args:
        loss: Weighted sum of the losses of the tasks; where labels are given.
        logits: Logits map [B, C, H, W] of each task. Saliency has two channels; normals have three, of any length;
            depth has one, in the units of the labels.
        task_losses: The loss of each task without its weight; where labels are given.
        gate_scores: Weights of the experts and, last, the memory [L, B, T, E + 1].
        router_logits: Logits of the gates [L, B, T, E + 1]; where they are asked for.
        memory: The last memory [B, D, h, w] of each task; where hidden states are asked for.
    """

    loss: Tensor | None = None
    logits: dict[str, Tensor] | None = None
    task_losses: dict[str, Tensor] | None = None
    gate_scores: Tensor | None = None
    router_logits: Tensor | None = None
    memory: dict[str, Tensor] | None = None


class TaskExpertForMultiTaskVision(PreTrainedModel):
    """Dense prediction of several tasks from one image (arXiv 2307.15324); an independent implementation.

    No reference code was ever released. Any model of `AutoBackbone` gives feature maps at L depths. They are projected
    to D channels and brought to the size of the first. At each level E expert networks make task-generic maps; for
    each image and task a gate weighs them and the memory of the task; what comes out rewrites the memory. The last
    memory goes to the head of the task.

    Args:
        config: The configuration.

    Example:
        >>> import torch
        >>> from transformers import ResNetConfig
        >>> from hf_mixture import TaskExpertConfig, TaskExpertForMultiTaskVision
        >>> backbone = ResNetConfig(
        ...     embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_indices=[1, 2]
        ... )
        >>> config = TaskExpertConfig(backbone_config=backbone, tasks=["semseg", "depth"], expert_size=8)
        >>> model = TaskExpertForMultiTaskVision(config).eval()
        >>> out = model(torch.zeros(2, 3, 32, 32))
        >>> tuple(out.logits["semseg"].shape), tuple(out.gate_scores.shape)
        ((2, 21, 32, 32), (2, 2, 2, 6))
    """

    config_class = TaskExpertConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # Losses can be normalised by the counts of a whole optimizer step.
    accepts_loss_kwargs = True

    def __init__(self, config: TaskExpertConfig) -> None:
        config.check()
        super().__init__(config)
        self.backbone = AutoBackbone.from_config(config.backbone_config)
        channels = self.backbone.channels
        self.projections = nn.ModuleList(nn.Conv2d(number, config.expert_size, 1) for number in channels)
        self.first_memory: nn.ModuleDict | nn.ParameterDict
        if config.memory_init == "learned":
            self.first_memory = nn.ParameterDict(
                {task: nn.Parameter(torch.zeros(config.expert_size)) for task in config.tasks}
            )
        else:
            self.first_memory = nn.ModuleDict(
                {task: nn.Conv2d(channels[0], config.expert_size, 1) for task in config.tasks}
            )
        self.levels = nn.ModuleList(MemorialMixture(config) for _ in channels)
        self.heads = nn.ModuleDict({task: Head(config, config.num_channels_of(task)) for task in config.tasks})
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, Gate):
            module.reset_running_mean()
        elif isinstance(module, nn.ParameterDict):
            for parameter in module.values():
                init.normal_(parameter, mean=0.0, std=1.0)

    @classmethod
    def from_pretrained_backbone(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        out_indices: list[int] | None = None,
        **fields: Any,
    ) -> TaskExpertForMultiTaskVision:
        """Make a new model around a backbone with trained weights.

        Args:
            pretrained_model_name_or_path: Hub id or folder of the backbone, or of a model that has it inside.
            out_indices: Stages after which mixtures sit. Default: those of the saved configuration.
            fields: Fields of `TaskExpertConfig` but the backbone.

        Returns:
            The model, in the type of the backbone's weights; all but its backbone is new.

        Raises:
            TypeError: If the model type is no backbone.
        """
        backbone = load_pretrained_backbone(pretrained_model_name_or_path, out_indices=out_indices)
        model = cls(TaskExpertConfig(backbone_config=backbone.config, **fields)).to(backbone.dtype)
        model.backbone.load_state_dict(backbone.state_dict())
        return model

    def forward(  # noqa: PLR0917 - as the inputs of a batch
        self,
        pixel_values: Tensor,
        labels: Mapping[str, Tensor] | None = None,
        task_masks: Mapping[str, Tensor] | None = None,
        output_router_logits: bool = False,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Mapping[str, Tensor] | None = None,
        return_dict: bool | None = None,
    ) -> TaskExpertOutput | tuple[Any, ...]:
        """Predict all tasks, and compute their losses.

        Args:
            pixel_values: Images [B, channels, H, W].
            labels: Label maps by task: [B, H, W], or [B, 3, H, W] for normals. Tasks that the batch lacks are out.
            task_masks: Booleans [B] by task, False for images without labels of this task. Default: all True.
            output_router_logits: Whether to return the logits of the gates.
            output_hidden_states: Whether to return the last memory.
            num_items_in_batch: Counts of labels by task (`count_labels`) of all batches of an optimizer step, to
                divide by. `TaskExpertTrainer` gives them. Default: those of this batch.
            return_dict: Whether to return a `TaskExpertOutput`. Default: as the configuration says.

        Returns:
            Loss, logits and gates.

        Raises:
            ValueError: If images, labels or masks do not fit the model or one another.
        """
        check_pixels(pixel_values, self.config.backbone_config)
        if labels is not None:
            check_labels(labels, task_masks or {}, pixel_values, self.config)
        memory, gate_scores, gate_logits = self.decode(self.backbone(pixel_values).feature_maps)
        logits = {
            task: F.interpolate(head(memory[task]), size=pixel_values.shape[2:], mode="bilinear", align_corners=False)
            for task, head in self.heads.items()
        }
        losses = None if labels is None else self._losses(logits, labels, task_masks or {}, num_items_in_batch)
        wants_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = TaskExpertOutput(
            loss=None if losses is None else self._total(losses, logits),
            logits=logits,
            task_losses=losses,
            gate_scores=gate_scores,
            router_logits=gate_logits if output_router_logits else None,
            memory=memory if wants_hidden else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def decode(self, feature_maps: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
        """Pass the feature maps of the backbone through all levels.

        Args:
            feature_maps: L maps, each with channels and size of its own.

        Returns:
            The last memory [B, D, h, w] of each task, and scores and logits of the gates [L, B, T, E + 1].
        """
        memory = self._begin(feature_maps[0])
        scores, logits = [], []
        for projection, level, features in zip(self.projections, self.levels, feature_maps, strict=True):
            projected = F.interpolate(
                projection(features), size=feature_maps[0].shape[2:], mode="bilinear", align_corners=False
            )
            step = level(projected, memory)
            memory = step.memory
            scores.append(step.gate_scores)
            logits.append(step.gate_logits)
        return memory, torch.stack(scores), torch.stack(logits)

    def _begin(self, features: Tensor) -> dict[str, Tensor]:
        """The first memory of each task, made anew for each batch."""
        if isinstance(self.first_memory, nn.ModuleDict):
            return {task: projection(features) for task, projection in self.first_memory.items()}
        shape = (len(features), -1, *features.shape[2:])
        return {task: vector.view(1, -1, 1, 1).expand(shape) for task, vector in self.first_memory.items()}

    def _losses(
        self,
        logits: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        counts: Mapping[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        config = self.config
        losses = {}
        for task, given in labels.items():
            masked = given if task not in masks else mask_labels(task, given, masks[task], config.ignore_value)
            losses[task] = task_loss(
                task,
                logits[task],
                masked,
                counts=None if counts is None else counts[task].to(given.device),
                ignore_value=config.ignore_value,
                edge_positive_weight=config.edge_positive_weight,
            )
        return losses

    def _total(self, losses: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> Tensor:
        total = sum((self.config.weight_of(task) * loss for task, loss in losses.items()), torch.tensor(0.0))
        for task in logits.keys() - losses.keys():
            # Processes of data parallel training wait for gradients of every parameter.
            total = total + 0.0 * logits[task].sum()
        return total
