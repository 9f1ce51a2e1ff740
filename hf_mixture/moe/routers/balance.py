"""Loss-free balance: a selection bias that follows the load, updated by a Trainer callback.

Letters: E experts, K chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_mixture._compat.transformers import extend_logs
from hf_mixture.moe.anatomy import MoeRouter, find_routers
from hf_mixture.moe.routers.losses import count_choices
from hf_mixture.moe.routers.tap import Decisions, RouterTap


def balanced_bias(bias: Tensor, counts: Tensor, rate: float) -> Tensor:
    """Raise the bias of experts below the mean load, and lower that of experts above it.

    b_i + u * sign(mean(c) - c_i) (https://arxiv.org/abs/2408.15664, algorithm 1).

    Args:
        bias: Selection bias [E].
        counts: How often each expert was chosen [E].
        rate: u.

    Returns:
        The new bias [E], in the type of the bias.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.balance import balanced_bias
        >>> balanced_bias(torch.zeros(3), torch.tensor([6, 3, 0]), 0.5).tolist()
        [-0.5, 0.0, 0.5]
    """
    # Times E, so that the mean of integers is one.
    above = counts * counts.numel() - counts.sum()
    return bias - rate * above.sign().to(bias.dtype)


class LossFreeBalanceCallback(TrainerCallback, ExportableState):
    """Balances the load of the experts without a loss, by their selection bias, under the stock Trainer.

    Before each optimizer step, and once in it, the choices of all its micro-batches and processes are counted, padding
    (attention mask 0) left out, and each router with a selection bias on its scores gets
    `b + rate * sign(mean count - count)`. The weights of the experts do not contain that bias, so that balance
    costs no gradient. Evaluation, and layers that gradient checkpointing runs again, do not count.

    The bias is a tensor of the model: it is saved and loaded with it, and a resumed run continues exactly. It is kept
    in float32, whatever the type of the model, as steps of 1e-3 get lost in half precision. A resumed run checks that
    its biases are those of the checkpoint: the Trainer of transformers 5.23 does not load tensors that the files of a
    family name otherwise than the model (Mixtral, Qwen3-MoE and more: experts, gates and biases) and only warns of
    missing keys. Load the model by `from_pretrained(checkpoint)` before `train(resume_from_checkpoint=checkpoint)`
    there. Families with such a bias
    are those of DeepSeek-V3 and its relatives (`hf-mixture inspect` shows it); others get one by
    `replace_routers(model, "sigmoid_bias")`.

    Args:
        rate: u, > 0. The paper uses 1e-3; scores of sigmoid routers lie in (0, 1).

    Attributes:
        num_updates (`int`): Updates so far in this run.

    Raises:
        ValueError: `rate` is not > 0. When training begins: a router of the model has no such bias, or one that
            is not saved, the process splits its batches over several devices (DataParallel), or a resumed run has not
            the biases of its checkpoint.

    Example:
        >>> import contextlib, io, tempfile
        >>> from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments
        >>> from hf_mixture.moe.routers import replace_routers
        >>> from hf_mixture.moe.routers.balance import LossFreeBalanceCallback
        >>> sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        >>> config = MixtralConfig(**sizes, num_attention_heads=1, num_key_value_heads=1, num_local_experts=4)
        >>> model = MixtralForCausalLM(config)
        >>> replaced = replace_routers(model, "sigmoid_bias")
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     args = TrainingArguments(
        ...         folder, max_steps=1, per_device_train_batch_size=1, report_to=[], save_strategy="no", use_cpu=True,
        ...     )
        ...     rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}]
        ...     balance = LossFreeBalanceCallback(rate=0.5)
        ...     _ = Trainer(model, args, train_dataset=rows, callbacks=[balance]).train()
        >>> balance.num_updates
        1
        >>> bool(model.model.layers[0].mlp.gate.e_score_correction_bias.any())
        True
    """

    def __init__(self, *, rate: float = 1e-3) -> None:
        if not 0.0 < rate < float("inf"):
            raise ValueError(f"rate={rate!r} is not a number > 0; give one, such as 1e-3")
        self.rate = rate
        # What the Trainer sets on a callback that it makes anew; the state of the Trainer has the same.
        self.digest: str | None = None
        self.num_updates = 0
        self._tap: RouterTap | None = None
        self._counts: list[Tensor | None] = []
        self._loads: list[Tensor] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the routers, and begin to count."""
        if args.n_gpu > 1:
            raise ValueError(
                f"one process with n_gpu={args.n_gpu} splits its batches (DataParallel), so that choices cannot be "
                "counted; start one process for each GPU with torchrun"
            )
        if self._tap is not None:
            self._tap.remove()
        tap = RouterTap(kwargs["model"], self._count)
        _prepare(tap.routers)
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {}).get("digest")
        if state.global_step > 0 and saved is not None and saved != _digest(tap.routers):
            raise ValueError(
                f"the selection biases are not those of step {state.global_step}: the Trainer has not loaded them "
                "from the checkpoint (it warns of missing keys), or not in float32; build the model by "
                "from_pretrained(checkpoint), give this callback to the Trainer when it is made, and resume again"
            )
        extend_logs()
        tap.attach()
        self._tap, self._counts, self._loads, self.num_updates = tap, [None] * len(tap.routers), [], 0
        # The Trainer expects an entry for every callback, and a checkpoint made without this one has none.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the routers, and make room for biases in float32 before a checkpoint is loaded."""
        _prepare(find_routers(kwargs["model"]))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the arguments, and a digest of the biases, which are in the model."""
        digest = None if self._tap is None else _digest(self._tap.routers)
        return {"args": {"rate": self.rate}, "attributes": {"digest": digest}}

    def _count(self, decisions: Decisions, mask: Tensor | None) -> None:
        assert self._tap is not None  # noqa: S101 - it calls this
        for place, (router, calls) in enumerate(zip(self._tap.routers, decisions, strict=True)):
            for call in calls:
                counts = count_choices(call.output.indices, router.num_experts, mask=mask)
                before = self._counts[place]
                self._counts[place] = counts if before is None else before + counts

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update each bias from the choices of the whole optimizer step."""
        assert self._tap is not None  # noqa: S101 - training has begun
        routers = self._tap.routers
        filled = [
            torch.zeros(router.num_experts, dtype=torch.int64, device=args.device) if counts is None else counts
            for router, counts in zip(routers, self._counts, strict=True)
        ]
        total = reduce(torch.cat([counts.to(args.device) for counts in filled]), reduction="sum")
        loads = []
        for router, counts in zip(routers, total.split([router.num_experts for router in routers]), strict=True):
            assert router.bias is not None  # noqa: S101 - checked when training began
            bias = router.bias.tensor
            with torch.no_grad():
                flat = bias.detach().reshape(-1)[: router.num_experts]
                flat.copy_(balanced_bias(flat, counts.to(flat.device), self.rate))
            loads.append(counts.max() * counts.numel() / counts.sum().clamp(min=1))
        self._loads.append(torch.stack(loads).mean())
        self._counts = [None] * len(routers)
        self.num_updates += 1

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model with its biases, and without hooks."""
        if self._tap is not None:
            self._tap.remove()
            self._tap = None

    def extend_logs(self, args: TrainingArguments, state: TrainerState, logs: dict[str, Any]) -> dict[str, float]:
        """Return `router/max_load` for a training entry of the log: largest load / mean load, averaged over layers.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            logs: The entry.
        """
        if "loss" not in logs or not self._loads:
            return {}
        load = torch.stack(self._loads).mean().item()
        self._loads = []
        return {"router/max_load": load}


def _prepare(routers: Sequence[MoeRouter]) -> None:
    for router in routers:
        _check_bias(router)
    for router in routers:
        _keep_float32(router)


def _digest(routers: Sequence[MoeRouter]) -> str:
    values = [router.bias.tensor.detach().float().reshape(-1).cpu() for router in routers if router.bias is not None]
    return hashlib.sha256(torch.cat(values).numpy().tobytes()).hexdigest()


def _check_bias(router: MoeRouter) -> None:
    bias, rule = router.bias, router.rule
    if bias is None or rule is None or rule.bias_on != "scores":
        found = "no selection bias" if bias is None else "a bias that its logits, and so the weights, contain"
        raise ValueError(
            f"{type(router.module).__name__} at {router.path} has {found}, so that it cannot be balanced without a "
            "loss; call replace_routers(model, 'sigmoid_bias') first, or use RouterLoss(load_balance=...)"
        )
    if bias.name in bias.module._non_persistent_buffers_set:
        raise ValueError(
            f"{bias.path} is not saved with the model, so that balance would be lost; call replace_routers(model, "
            "'sigmoid_bias') first"
        )


def _keep_float32(router: MoeRouter) -> None:
    assert router.bias is not None  # noqa: S101 - checked before
    tensor = router.bias.tensor
    if torch.finfo(tensor.dtype).bits >= 32:
        return
    if isinstance(tensor, nn.Parameter):
        tensor.data = tensor.data.float()
    else:
        setattr(router.bias.module, router.bias.name, tensor.float())
