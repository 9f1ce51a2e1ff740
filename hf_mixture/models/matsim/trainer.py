"""Training of MatSim by the stock Trainer, in batches of whole groups."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments

from hf_mixture.models.matsim.data_collator import MatSimCollator, augment
from hf_mixture.models.matsim.sampling import MaterialSampler


class MatSimTrainer(Trainer):
    """The stock Trainer with batches of whole groups of material sets; nothing else is changed.

    A batch of `args.per_device_train_batch_size` images has groups of `images_per_set` images of one set each, on
    every process.

    Args:
        model: A `MatSimModel`.
        args: Arguments of the Trainer.
        images_per_set: R, at least 2; it divides the batch, and with `split_batches` the part of each process.
        augments: Whether images are changed at random in training, as published. Default: no.
        kwargs: What the stock Trainer takes. The data sets have the columns `set_ids` and `ratios`; the collator
            defaults to `MatSimCollator`.

    Raises:
        ValueError: Groups do not fill batches, or a set has too few images.

    Example:
        >>> import contextlib, io, tempfile, torch
        >>> from transformers import ConvNextConfig, TrainingArguments
        >>> from hf_mixture import MatSimConfig, MatSimModel, MatSimTrainer
        >>> backbone = ConvNextConfig(num_channels=4, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8])
        >>> model = MatSimModel(MatSimConfig(backbone_config=backbone, embedding_size=8))
        >>> rows = [{"pixel_values": torch.rand(4, 32, 32), "set_ids": i // 4, "ratios": i % 4 / 3} for i in range(16)]
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     args = TrainingArguments(
        ...         folder, max_steps=2, per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True
        ...     )
        ...     trainer = MatSimTrainer(model, args, images_per_set=4, train_dataset=rows)
        ...     _ = trainer.train()
        >>> trainer.state.global_step
        2
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *,
        images_per_set: int,
        augments: bool = False,
        **kwargs: Any,
    ) -> None:
        args = TrainingArguments("matsim") if args is None else args
        parts = args.world_size if args.accelerator_config.split_batches else 1
        if args.train_batch_size % (parts * images_per_set):
            whole = f" on each of {parts} processes" if parts > 1 else ""
            raise ValueError(
                f"a batch of {args.train_batch_size} images does not consist of whole groups of images_per_set="
                f"{images_per_set}{whole}; change per_device_train_batch_size or images_per_set"
            )
        self.images_per_set = images_per_set
        self.augments = augments
        if args.label_names is None:
            args.label_names = ["set_ids", "ratios"]
        # Columns such as `image` are read by the collator, not by the model.
        args.remove_unused_columns = False
        kwargs.setdefault("data_collator", MatSimCollator())
        super().__init__(model=model, args=args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Take a step; images are changed here and not by the collator, which runs ahead of checkpoints."""
        if self.augments:
            inputs = {**inputs, "pixel_values": augment(inputs["pixel_values"])}
        return super().training_step(model, inputs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        data = self.train_dataset if train_dataset is None else train_dataset
        # A list of rows has no columns.
        if not hasattr(data, "column_names"):
            set_ids = [row.get("set_ids") for row in data]
        else:
            set_ids = data["set_ids"] if "set_ids" in data.column_names else [None] * len(data)
        return MaterialSampler(
            set_ids,
            images_per_set=self.images_per_set,
            sets_per_batch=self.args.train_batch_size // self.images_per_set,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
        )
