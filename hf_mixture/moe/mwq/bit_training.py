"""`BitRouterTraining`: bit routers under the stock Trainer, by distillation and expected bits.

Letters: B rows, S positions, V vocabulary, L layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_mixture._compat.checkpoints import load_rest_of_checkpoint
from hf_mixture._compat.transformers import extend_logs
from hf_mixture.moe.mwq.bit_policy import BitRouter
from hf_mixture.moe.mwq.config import PRESETS
from hf_mixture.moe.mwq.targets import nested_experts


class BitRouterTraining(TrainerCallback):
    r"""Trains bit routers by distillation and expected bits (D2MoE, arXiv 2504.15299, section 4.3).

    The loss is \(\mathrm{CE}(p, q) + \alpha \cdot \frac{1}{L} \sum_l \sum_k p^l_k b_k\).
    q is the distribution of the next token of the teacher, p that of the quantised model, which stays frozen but for
    its routers; both terms are means over tokens. Labels play no part. Evaluation gives the loss of the model at the
    widths its routers choose, without capacity.

    Args:
        alpha: Price of a bit. The paper gives none; find it by the average bits that come out.
        teacher: The full-precision model, with the same tokenizer. Default: the quantised model at its last width.
        capacity: Part of the places of a forward call that each width may take in training; the parts add up to 1.
            Places beyond it, drawn at random, skip their expert. Default: those of the paper for widths 2 to 4 and 5
            to 8; for others equal parts.

    Raises:
        ValueError: A value is out of range. From `attach`: the model has no bit routers, or another vocabulary than
            the teacher.

    Example:
        >>> import contextlib, copy, io, tempfile
        >>> from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments
        >>> from hf_mixture import BitRouterTraining, MwqConfig, add_bit_routers, quantise_experts, set_bit_budget
        >>> full = MixtralForCausalLM(MixtralConfig(
        ...     vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        ...     num_key_value_heads=1, num_local_experts=4,
        ... ))
        >>> model = copy.deepcopy(full)
        >>> quantise_experts(model, MwqConfig(group_size=8))
        >>> _ = add_bit_routers(model)
        >>> rows = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 4
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     args = TrainingArguments(folder, max_steps=1, logging_steps=1, save_strategy="no", report_to=[])
        ...     trainer = Trainer(model, args, train_dataset=rows)
        ...     _ = BitRouterTraining(alpha=0.05, teacher=full).attach(trainer)
        ...     _ = trainer.train()
        >>> sorted(name for name in trainer.state.log_history[0] if "/" in name)
        ['bits/distillation', 'bits/expected', 'bits/share_2', 'bits/share_3', 'bits/share_4']
        >>> set_bit_budget(model, average_bits=3.5) <= 3.5
        True
    """

    def __init__(
        self,
        alpha: float,
        *,
        teacher: nn.Module | None = None,
        capacity: Mapping[int, float] | Literal["preset"] = "preset",
    ) -> None:
        if not 0.0 <= alpha < float("inf"):
            raise ValueError(f"alpha={alpha!r} is not a number >= 0; give the price of a bit")
        self.alpha = float(alpha)
        self.teacher = teacher
        self.capacity = capacity
        self._trainer: Any = None
        self._logged: dict[str, list[Tensor]] = {}

    def attach(self, trainer: Trainer) -> BitRouterTraining:
        """Let a Trainer train the bit routers of its model, and nothing else.

        Of this Trainer object alone, `compute_loss` and the loading of checkpoints are wrapped.

        Args:
            trainer: The Trainer; its optimizer must not have been made.

        Returns:
            This object.

        Raises:
            ValueError: As for the class, or this object is attached already.
        """
        if self._trainer is not None:
            raise ValueError("this BitRouterTraining is attached to a Trainer already; make another")
        model = trainer.model
        modules = nested_experts(model)
        widths = next(iter(modules.values())).mwq_widths if modules else ()
        capacity = self._check_capacity(widths)
        if not modules or not all(isinstance(module.mwq_policy, BitRouter) for module in modules.values()):
            raise ValueError(
                f"this {type(model).__name__} has no bit routers; call add_bit_routers(model) before the Trainer is "
                "made"
            )
        self._routers = [m.mwq_policy for m in modules.values() if isinstance(m.mwq_policy, BitRouter)]
        self._modules = list(modules.values())
        model.requires_grad_(False)
        for router in self._routers:
            router.requires_grad_(True)
            router.capacity = capacity
        if self.teacher is not None:
            mine, other = (_vocabulary(one) for one in (model, self.teacher))
            if mine != other:
                raise ValueError(
                    f"the teacher has {other} tokens and the model {mine}; use the model that was quantised"
                )
            self.teacher.requires_grad_(False).eval()
        self._trainer = trainer
        self._compute = trainer.compute_loss
        trainer.compute_loss = self._compute_loss
        load_rest_of_checkpoint(trainer)
        trainer.add_callback(self)
        return self

    def _check_capacity(self, widths: tuple[int, ...]) -> dict[int, float]:
        if self.capacity == "preset":
            presets = [preset for preset in PRESETS.values() if tuple(preset) == widths]
            return presets[0] if presets else dict.fromkeys(widths, 1.0 / max(1, len(widths)))
        assert not isinstance(self.capacity, str)  # noqa: S101 - "preset" is the only text
        capacity = dict(self.capacity)
        if tuple(sorted(capacity)) != widths or any(part < 0 for part in capacity.values()):
            raise ValueError(f"capacity={capacity} must give a part of at least 0 to each of the widths {widths}")
        if abs(sum(capacity.values()) - 1.0) > 1e-6:
            raise ValueError(f"capacity={capacity} adds up to {sum(capacity.values()):.6g}; it must add up to 1")
        return capacity

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that the Trainer was attached, and begin a sample of scores."""
        if self._trainer is None:
            raise ValueError(
                "BitRouterTraining was given to callbacks=[...] alone and would do nothing; call "
                "BitRouterTraining(...).attach(trainer) after the Trainer is made instead"
            )
        extend_logs()
        if self.teacher is not None:
            self.teacher.to(args.device)
        for router in self._routers:
            router.keeps_sample = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the sample as it is."""
        for router in self._routers:
            router.keeps_sample = False
            router.expected_bits = None

    def extend_logs(self, args: TrainingArguments, state: TrainerState, logs: dict[str, Any]) -> dict[str, float]:
        """Return the two terms, and the share of each width, for a training entry of the log.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            logs: The entry.
        """
        if "loss" not in logs or not self._logged:
            return {}
        means = {f"bits/{name}": float(torch.stack(values).mean()) for name, values in self._logged.items()}
        self._logged = {}
        counts = [sum(of_width) for of_width in zip(*(router.take_counts() for router in self._routers), strict=True)]
        shares = [count / sum(counts) for count in counts]
        return means | {f"bits/share_{w}": share for w, share in zip(self._routers[0].widths, shares, strict=True)}

    def _compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not model.training:
            return self._compute(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        trainer = self._trainer
        given = {name: value for name, value in inputs.items() if name not in trainer.label_names}
        target = self._teach(given)
        outputs = model(**given)
        kept = given.get("attention_mask")
        distillation = _cross_entropy(outputs.logits, target, kept)
        expected = [router.expected_bits for router in self._routers if router.expected_bits is not None]
        bits = torch.stack(expected).mean()
        loss = distillation + self.alpha * bits
        for name, value in {"distillation": distillation, "expected": bits}.items():
            self._logged.setdefault(name, []).append(value.detach().float())
        scaled = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        if scaled or trainer.compute_loss_func is not None:
            loss = loss / trainer.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _teach(self, inputs: Mapping[str, Any]) -> Tensor:
        """The distribution of the teacher [B, S, V]."""
        if self.teacher is not None:
            logits: Tensor = self.teacher(**inputs).logits
        else:
            with _at_last_width(self._modules):
                logits = self._trainer.model(**inputs).logits
        return logits.float().softmax(-1)


@contextlib.contextmanager
def _at_last_width(modules: list[Any]) -> Iterator[None]:
    policies = [module.mwq_policy for module in modules]
    for module in modules:
        module.mwq_policy, module.mwq_width = None, module.mwq_widths[-1]
    try:
        yield
    finally:
        for module, policy in zip(modules, policies, strict=True):
            module.mwq_policy = policy


def _cross_entropy(logits: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    losses = -(target * logits.float().log_softmax(-1)).sum(-1)
    if mask is None:
        return losses.mean()
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def _vocabulary(model: Any) -> int:
    return int(model.get_output_embeddings().weight.shape[0])
