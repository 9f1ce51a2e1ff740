"""Configuration of TaskExpert."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_mixture.models.taskexpert.tasks import TASKS


@strict
class TaskExpertConfig(PreTrainedConfig):
    """What makes a TaskExpert: a backbone, tasks, experts, gates and a feature memory (arXiv 2307.15324).

    The code of the paper was never released, and only its abstract could be checked. Where the paper's choice is not
    known, both likely ones are options; each says why its default is the default.

    Args:
        backbone_config: Configuration of any model of `AutoBackbone`. Its `out_indices`, or `out_features`, say at
            which depths mixtures sit. Default: DINOv2 of the small size, after four evenly spaced blocks, as recalled
            for ViT-L.
        tasks: Names of the tasks, of `"semseg"`, `"parts"`, `"saliency"`, `"normals"`, `"edges"` and `"depth"`. Only
            `gate_scores` depends on their order. Default: all.
        num_semseg_labels: Number of classes of semantic segmentation.
        num_parts_labels: Number of classes of part segmentation.
        task_weights: Weights of the losses, by task; tasks that are left out have the published ones: 1, 2, 5, 10, 50
            and 1, in the order above.
        expert_size: D, channels of a level, its experts and the memory.
        num_experts: E, number of experts of a level.
        kernel_size: Odd side of the convolutions of experts and of the memory. Default: 3, as the heads have.
        norm: Normalisation in experts, memory and heads: `"batch"`, or `"group"`, which does not depend on the other
            images of a batch. Default: `"batch"`, as the heads of the published sibling models have.
        memory_init: Where the memory of a task begins: `"feature"`, a projection of the first level, or `"learned"`, a
            vector for each task, the same at all positions. Default: `"feature"`, so that the memory differs between
            images, and is worth something, from the first gate on.
        memory_update: What a level writes: `"residual"`, the memory plus a convolution of what the gate assembled, or
            `"replace"`, that convolution alone. Default: `"residual"`, so that what early levels wrote is kept.
        gate: `"dynamic"`, or `"batch_mean"`: the mean gate of the batch for all of its images, and of all batches in
            evaluation, which is a constant; it is there for comparison.
        gate_momentum: Share of a batch in the running mean of `"batch_mean"`, above 0 and at most 1.
        gate_pool: How a gate sees the maps: `"mean"`, their mean over positions, or `"spatial_linear"`, a mean, and a
            learned combination of all positions, beside each other, as in MLoRE. Default: `"mean"`, since a learned
            combination fixes the size of images.
        gate_grid: Height and width of the first level's map, for `"spatial_linear"` alone.
        edge_positive_weight: Weight w, above 0 and below 1, of edge pixels in the loss; others weigh 1 - w. None takes
            the share of other pixels in the batch, as HED. Default: 0.95, as published.
        ignore_value: Label of pixels that do not count, in all maps; for normals, in any channel.

    Example:
        >>> from hf_mixture import TaskExpertConfig
        >>> config = TaskExpertConfig(tasks=["semseg", "depth"], num_semseg_labels=40)
        >>> config.backbone_config.model_type, config.num_channels_of("semseg"), config.weight_of("depth")
        ('dinov2', 40, 1.0)
    """

    model_type = "taskexpert"
    sub_configs_defaults = {  # noqa: RUF012 - an attribute of transformers
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="dinov2",
            init_kwargs={
                "model_type": "dinov2",
                "hidden_size": 384,
                "num_attention_heads": 6,
                "out_indices": [3, 6, 9, 12],
            },
        )
    }

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    tasks: list[str] | tuple[str, ...] = tuple(TASKS)
    num_semseg_labels: int = 21
    num_parts_labels: int = 7
    task_weights: dict[str, float | int] | None = None
    expert_size: int = 96
    num_experts: int = 5
    kernel_size: int = 3
    norm: Literal["batch", "group"] = "batch"
    memory_init: Literal["feature", "learned"] = "feature"
    memory_update: Literal["residual", "replace"] = "residual"
    gate: Literal["dynamic", "batch_mean"] = "dynamic"
    gate_momentum: float = 0.1
    gate_pool: Literal["mean", "spatial_linear"] = "mean"
    gate_grid: list[int] | tuple[int, ...] | None = None
    edge_positive_weight: float | None = 0.95
    ignore_value: int = 255
    # Maps are shaped like images; what else the model returns is not.
    keys_to_ignore_at_inference = [  # noqa: RUF012 - an attribute of transformers
        "task_losses",
        "gate_scores",
        "router_logits",
        "memory",
    ]

    def check(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            ValueError: If a value is out of its range or does not fit the others.
        """
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={list(self.tasks)!r} must name at least one task, and each once")
        for where, names, known in (
            ("tasks", self.tasks, tuple(TASKS)),
            ("task_weights", self.task_weights or {}, tuple(self.tasks)),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"{where} has {name!r}, which is no task here; the tasks are {', '.join(known)}")
        for name, weight in (self.task_weights or {}).items():
            if not weight >= 0:
                raise ValueError(f"task_weights[{name!r}]={weight} must be at least 0; raise it")
        for field, least in {
            "num_semseg_labels": 2,
            "num_parts_labels": 2,
            "expert_size": 1,
            "num_experts": 1,
            "kernel_size": 1,
        }.items():
            if getattr(self, field) < least:
                raise ValueError(f"{field}={getattr(self, field)} must be at least {least}; raise it")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd, so that maps keep their size; change it")
        if not 0 < self.gate_momentum <= 1:
            raise ValueError(f"gate_momentum={self.gate_momentum} must be above 0 and at most 1; change it")
        if self.edge_positive_weight is not None and not 0 < self.edge_positive_weight < 1:
            raise ValueError(
                f"edge_positive_weight={self.edge_positive_weight} must be above 0 and below 1; or None, for the "
                "share of the batch"
            )
        if not max(self.num_semseg_labels, self.num_parts_labels, 2) <= self.ignore_value:
            raise ValueError(
                f"ignore_value={self.ignore_value} must not be a class, and is below the number of classes; raise it"
            )
        self._check_gate()

    def _check_gate(self) -> None:
        if self.gate_pool == "spatial_linear":
            if self.gate_grid is None or len(self.gate_grid) != 2 or min(self.gate_grid) < 1:
                raise ValueError(
                    f"gate_grid={self.gate_grid} must be height and width of the first level's map with gate_pool="
                    '"spatial_linear", which learns a weight for each position; give them, for example [32, 32]'
                )
            if self.expert_size < 4:
                raise ValueError(
                    f'expert_size={self.expert_size} must be at least 4 with gate_pool="spatial_linear"; raise it'
                )
        elif self.gate_grid is not None:
            raise ValueError(
                f'gate_grid={self.gate_grid} is only for gate_pool="spatial_linear"; remove one or change the other'
            )

    def num_channels_of(self, task: str) -> int:
        """Channels of the logits map of a task.

        Args:
            task: Its name.

        Returns:
            The number.
        """
        fixed = TASKS[task].num_channels
        return int(getattr(self, f"num_{task}_labels")) if fixed is None else fixed

    def weight_of(self, task: str) -> float:
        """Weight of the loss of a task.

        Args:
            task: Its name.

        Returns:
            The weight, at least 0.
        """
        return float((self.task_weights or {}).get(task, TASKS[task].weight))
