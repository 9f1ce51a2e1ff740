"""Training steps of a stack: what the Trainer does to one model, done to P models at once.

Letters: P copies, B samples of a step, T tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import get_scheduler

from hf_mixture.data.proxy.spec import ProxySpec
from hf_mixture.data.proxy.stacked import StackedCausalLM


_MOMENTS = ("exp_avg", "exp_avg_sq")


class StackedTraining:
    """AdamW with the learning-rate schedule and the clipping of the Trainer, for each copy of a stack.

    Args:
        model: The stack, on its device.
        spec: Optimizer and schedule.
        num_steps: Optimizer steps of the run.

    Attributes:
        step (`int`): Steps that were taken.
    """

    def __init__(self, model: StackedCausalLM, spec: ProxySpec, num_steps: int) -> None:
        self.model, self.spec, self.num_steps = model, spec, num_steps
        self.step = 0
        self.parameters = {name: value for name, value in model.by_name.items() if value.requires_grad}
        decayed = [self.parameters[name] for name in model.decayed if name in self.parameters]
        plain = [value for name, value in self.parameters.items() if name not in model.decayed]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=spec.learning_rate,
            betas=spec.adam_betas,
            eps=spec.adam_epsilon,
            fused=True,
        )
        schedule = get_scheduler(
            spec.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=spec.warmup_steps(num_steps),
            num_training_steps=num_steps,
        )
        self._factor = schedule.lr_lambdas[0]

    def advance(self, input_ids: torch.Tensor) -> None:
        """Take one step.

        Args:
            input_ids: int64 [P, B, T], the samples of each copy.
        """
        self.model.train()
        self.model.losses(input_ids).sum().backward()
        self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * self._factor(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _clip(self) -> None:
        """Scale the gradient of each copy down to the largest norm."""
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        scale = (self.spec.max_grad_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state by name: parameters and moments."""
        state = {f"parameter.{name}": value.detach() for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            state.update({f"{moment}.{name}": self.optimizer.state[value][moment] for moment in _MOMENTS})
        return state

    def load(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Continue from `tensors`.

        Args:
            tensors: The state by name.
            step: Steps that were taken.
        """
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(tensors[f"parameter.{name}"])
                self.optimizer.state[value] = {
                    # The fused kernel counts steps in a float tensor on the device of the parameter.
                    "step": torch.tensor(float(step), device=value.device),
                    **{moment: tensors[f"{moment}.{name}"].to(value.device) for moment in _MOMENTS},
                }
        self.step = step
