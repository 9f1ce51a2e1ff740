"""`RouterLoss`: losses of routers under the stock Trainer, exact under accumulation and data parallelism.

Letters: M micro-batches of an optimizer step on one process, W processes, L layers, E experts, K chosen.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_mixture._compat.transformers import extend_logs
from hf_mixture.moe.anatomy import MoeRouter
from hf_mixture.moe.routers.loss_checks import check_losses
from hf_mixture.moe.routers.losses import Per, Scope
from hf_mixture.moe.routers.noisy import NoisyTopkRouter
from hf_mixture.moe.routers.step_loss import StepLoss, orthogonality_losses
from hf_mixture.moe.routers.step_sums import Pooling, exact_type, pack, sums_of_decisions
from hf_mixture.moe.routers.tap import Decisions, RouterTap


Counting = Literal["exact", "running"]

_CHOICES = {
    "scope": ("global", "sequence", "micro"),
    "pooling": ("sum", "pooled"),
    "per": ("token", "choice"),
    "counting": ("exact", "running"),
}


class RouterLoss(TrainerCallback):
    r"""Adds losses of the routers to what a stock Trainer trains on.

    The training loss becomes `loss + load_balance * L_balance + z * L_z + ...`, averaged as the Trainer averages its
    own: one batch of 8, two accumulated batches of 4 and two processes with 4 each give the same loss and the same
    gradients in `scope="global"`, to rounding. Padding (attention mask 0) is left out of losses and counts. Evaluation
    is left alone, so that held-out losses stay comparable.

    **Cost of exact global losses.** The gradient of `sum f_i P_i` needs the shares f of the whole optimizer step
    before the first backward. Without accumulation they come from one all-reduce within the forward. With M > 1
    micro-batches, each is first run through the model once without gradients: M forwards more, about a third of the
    time of a step, with the random state put back so that dropout falls the same way. `counting="running"` saves that:
    it uses the shares of the micro-batches so far, which is not the gradient of any loss of the whole step.

    Coefficients of transformers' `router_aux_loss_coef` carry over with `pooling="pooled"`. With `pooling="sum"`, the
    loss is about L times that; with `per="choice"` 1/K of that. Megatron is `pooling="sum", per="choice"`.

    Args:
        load_balance: Coefficient of the balance loss of Switch Transformers,
            `hf_mixture.moe.routers.losses.switch_loss`. The probabilities are the scores of the router divided by
            their sum. Default: 0, as for the others.
        importance: Coefficient of the squared coefficient of variation of the gate weights (Shazeer et al. 2017).
        load: The same of the smooth load, which the router `noisy_topk` alone can tell; others are refused.
        z: Coefficient of the mean of logsumexp^2 of the raw logits.
        orthogonality: Coefficient of the mean squared cosine of pairs of router rows, added up over the layers.
        expert_orthogonality: The same of pairs of experts, each expert tensor of three dimensions by itself.
        scope: What losses are taken over: `"global"`, all tokens of the optimizer step on all processes;
            `"sequence"`, each sequence by itself; `"micro"`, each micro-batch of each process by itself. The latter
            two are averaged over sequences, micro-batches and processes with equal weight. Default: `"global"`.
        pooling: `"sum"` adds up the losses of the layers, `"pooled"` takes the tokens of all layers together.
        per: `"token"` makes uniform routing cost K, `"choice"` 1.
        counting: `"exact"` or `"running"`; matters in `scope="global"` with accumulation alone. Default: `"exact"`.

    Attributes:
        last (`dict[str, float]`): Losses without their coefficients, of the last micro-batch. Means of them since the
            entry before join each training entry of the log as `router/<name>`.

    Raises:
        ValueError: A value is outside its range, or all coefficients are 0. From `attach`, and when training begins:
            the model adds a balance loss itself, the family cannot be read, or the kind of parallelism is not
            supported. In training: checkpointing cuts the routers off from the loss.

    Example:
        >>> import contextlib, io, tempfile
        >>> from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments
        >>> from hf_mixture.moe.routers.loss_callback import RouterLoss
        >>> sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        >>> config = MixtralConfig(**sizes, num_attention_heads=1, num_key_value_heads=1, num_local_experts=4)
        >>> rows = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 4
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     args = TrainingArguments(
        ...         folder, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2, logging_steps=1,
        ...         save_strategy="no", report_to=[],
        ...     )
        ...     trainer = Trainer(MixtralForCausalLM(config), args, train_dataset=rows)
        ...     router_loss = RouterLoss(load_balance=0.01, z=0.001).attach(trainer)
        ...     _ = trainer.train()
        >>> [name for name in trainer.state.log_history[0] if "/" in name]
        ['router/load_balance', 'router/z']
        >>> router_loss.detach()
    """

    def __init__(
        self,
        *,
        load_balance: float = 0.0,
        importance: float = 0.0,
        load: float = 0.0,
        z: float = 0.0,
        orthogonality: float = 0.0,
        expert_orthogonality: float = 0.0,
        scope: Scope = "global",
        pooling: Pooling = "sum",
        per: Per = "token",
        counting: Counting = "exact",
    ) -> None:
        coefficients = {
            "load_balance": load_balance,
            "importance": importance,
            "load": load,
            "z": z,
            "orthogonality": orthogonality,
            "expert_orthogonality": expert_orthogonality,
        }
        for name, value in coefficients.items():
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name}={value!r} is not a number >= 0; give the coefficient of the loss, or 0")
        if not any(coefficients.values()):
            raise ValueError(f"all coefficients are 0; give one of {', '.join(coefficients)} a value > 0")
        given: dict[str, str] = {"scope": scope, "pooling": pooling, "per": per, "counting": counting}
        for name, choice in given.items():
            if choice not in _CHOICES[name]:
                known = ", ".join(map(repr, _CHOICES[name]))
                raise ValueError(f"{name}={choice!r} is not known; choose from {known}")
        self.coefficients = {name: float(value) for name, value in coefficients.items() if value}
        self.scope, self.pooling, self.per, self.counting = scope, pooling, per, counting
        self._last: dict[str, Tensor] = {}
        self._trainer: Any = None
        self._tap: RouterTap | None = None
        self._seen: tuple[Decisions, Tensor | None] | None = None
        self._step: StepLoss | None = None
        self._logged: dict[str, list[Tensor]] = {}

    def attach(self, trainer: Trainer) -> RouterLoss:
        """Add the losses to what a Trainer trains on, and join its callbacks.

        Of this Trainer object alone, the methods `compute_loss` and `get_batch_samples` are wrapped; `detach` takes
        the wrapping off.

        Args:
            trainer: The Trainer, or an object of a subclass.

        Returns:
            This object.

        Raises:
            ValueError: This object is attached already, the model adds a balance loss itself, or it has no routers
                that can be read.
        """
        if self._trainer is not None:
            raise ValueError("this RouterLoss is attached to a Trainer already; call detach() first, or make another")
        model = trainer.model
        config = getattr(model, "config", None)
        config = config.get_text_config() if config is not None else None
        tap = RouterTap(model, self._receive)
        check_losses(type(model).__name__, config, tap.routers, self.coefficients, pooled=self.pooling == "pooled")
        self._trainer, self._tap = trainer, tap
        self._step = StepLoss(
            self.coefficients,
            scope=self.scope,
            pooling=self.pooling,
            per=self.per,
            num_experts=[router.num_experts for router in tap.routers],
            reduce=self._reduce,
        )
        self._compute, self._take_batches = trainer.compute_loss, trainer.get_batch_samples
        trainer.compute_loss = self._compute_loss
        trainer.get_batch_samples = self._get_batch_samples
        trainer.add_callback(self)
        return self

    def detach(self) -> None:
        """Leave the Trainer and its model as they were."""
        if self._trainer is None:
            return
        del self._trainer.compute_loss, self._trainer.get_batch_samples
        self._trainer.remove_callback(self)
        if self._tap is not None:
            self._tap.remove()
            self._keep_loads(False)
        self._trainer = self._tap = self._step = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen to the routers."""
        if self._trainer is None or self._tap is None:
            raise ValueError(
                "RouterLoss was given to callbacks=[...] alone and would do nothing; call RouterLoss(...)"
                ".attach(trainer) after the Trainer is made instead"
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"one process with n_gpu={args.n_gpu} splits its batches (DataParallel), so that the routers cannot "
                "be followed; start one process for each GPU with torchrun"
            )
        trainer = self._trainer
        split = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
        if split != 1:
            raise ValueError(
                f"tensor, context and sequence parallelism split a batch over {split} processes, which RouterLoss "
                "does not support; use data parallelism"
            )
        extend_logs()
        self._tap.remove()
        self._tap.attach()
        self._keep_loads("load" in self.coefficients)
        self._logged = {}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was."""
        if self._tap is not None:
            self._tap.remove()
            self._keep_loads(False)

    def extend_logs(self, args: TrainingArguments, state: TrainerState, logs: dict[str, Any]) -> dict[str, float]:
        """Return `router/<name>` for a training entry of the log.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            logs: The entry.
        """
        if "loss" not in logs or not self._logged:
            return {}
        means = torch.stack([torch.stack(values).mean() for values in self._logged.values()])
        means = self._reduce(means) / self._num_processes
        names = [f"router/{name}" for name in self._logged]
        self._logged = {}
        return dict(zip(names, means.tolist(), strict=True))

    @property
    def last(self) -> dict[str, float]:
        """Losses without their coefficients, of the last micro-batch."""
        return {name: value.item() for name, value in self._last.items()}

    @property
    def _routers(self) -> Sequence[MoeRouter]:
        assert self._tap is not None  # noqa: S101 - attach sets it
        return self._tap.routers

    @property
    def _num_processes(self) -> int:
        return int(self._trainer.accelerator.num_processes)

    def _reduce(self, value: Tensor) -> Tensor:
        if self._num_processes == 1:
            return value
        total: Tensor = self._trainer.accelerator.reduce(value, reduction="sum")
        return total

    def _keep_loads(self, keep: bool) -> None:
        for router in self._routers:
            if isinstance(router.module, NoisyTopkRouter):
                router.module.keeps_load = keep

    def _receive(self, decisions: Decisions, mask: Tensor | None) -> None:
        self._seen = (decisions, mask)

    def _get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        batches, num_items = self._take_batches(epoch_iterator, num_batches, device)
        counts = self.scope == "global" and self.counting == "exact" and len(batches) > 1
        self._parts().begin(self._sums_without_gradients(batches) if counts else None)
        return batches, num_items

    def _parts(self) -> StepLoss:
        assert self._step is not None  # noqa: S101 - attach sets it
        return self._step

    def _sums_without_gradients(self, batches: Iterable[Mapping[str, Any]]) -> Tensor:
        trainer = self._trainer
        model, device = trainer.model_wrapped, trainer.args.device
        extra = {}
        accepted = inspect.signature(trainer.accelerator.unwrap_model(model).forward).parameters
        if "logits_to_keep" in accepted:
            extra["logits_to_keep"] = 1  # the head is not needed
        model.train()
        sums: list[Tensor] = []
        # The forwards of training draw the same numbers after this, as the backward draws none.
        devices = [device] if device.type != "cpu" else []
        with (
            torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"),
            torch.no_grad(),
            trainer.compute_loss_context_manager(),
        ):
            for batch in batches:
                inputs = {name: value for name, value in batch.items() if name not in trainer.label_names}
                model(**send_to_device(inputs, device), **extra)
                sums.append(self._take_sums(num_parts=1))
        return torch.stack(sums).sum(dim=0)

    def _take_sums(self, num_parts: int | None) -> Tensor:
        """Sums of the last forward [P, n]; a part for each sequence where `num_parts` is None."""
        if self._seen is None:
            raise ValueError(
                "the model was not called as model(...) in this step, so that its routers were not heard; RouterLoss "
                "needs a Trainer whose compute_loss calls the model"
            )
        (decisions, mask), self._seen = self._seen, None
        if num_parts is None:
            if mask is None:
                raise ValueError(
                    "scope='sequence' needs attention_mask in the batch to know the sequences; let the data collator "
                    "return it, or choose scope='global'"
                )
            num_parts = len(mask)
        return pack(sums_of_decisions(self._routers, decisions, mask, num_parts, self._trainer.args.device))

    def _compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not model.training:
            return self._compute(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        loss, outputs = self._compute(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        trainer = self._trainer
        added = self._losses()
        # The Trainer averages over processes, and over micro-batches unless the loss is scaled already.
        is_scaled = trainer.loss_is_scaled_for_ga
        if is_scaled is None:
            is_scaled = (
                trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            ) or trainer.compute_loss_func is not None
        factor = self._num_processes * (1 if is_scaled else trainer.current_gradient_accumulation_steps)
        loss = loss + (added * factor).to(device=loss.device, dtype=loss.dtype)
        return (loss, outputs) if return_outputs else loss

    def _losses(self) -> Tensor:
        num_batches, num_processes = self._trainer.current_gradient_accumulation_steps, self._num_processes
        sums = self._take_sums(num_parts=None if self.scope == "sequence" else 1)
        added, values = self._parts().part(sums, num_batches=num_batches, num_processes=num_processes)
        static = orthogonality_losses(self._routers, self.coefficients)
        added = added + self._parts().weighted(static).to(added.device) / (num_batches * num_processes)
        values = {name: value.detach() for name, value in (values | static).items() if name in self.coefficients}
        for name, value in values.items():
            self._logged.setdefault(name, []).append(value.to(added.device, exact_type(added.device)))
        self._last = values
        return added
