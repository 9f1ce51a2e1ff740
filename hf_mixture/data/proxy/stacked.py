"""Many copies of one model as a single batched model.

The copies lie side by side in the batch: of the R = P * B rows of an input, B belong to the first copy, the next B to
the second. Whatever has no parameters (attention, rotary embeddings, activations) treats rows alike and runs as it
is, in its fused kernels; each module with parameters is replaced by one that holds those of all copies and applies
to each row those of its copy.

Letters: P copies, B rows of one copy, R = P * B, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.pytorch_utils import Conv1D

from hf_mixture.data.proxy.stacked_layers import (
    Rows,
    StackedEmbedding,
    StackedLayerNorm,
    StackedLinear,
    StackedModule,
)


TOLERANCE = 1e-4

_REMEDY = "use ProxyRunner, which trains proxies one by one"


class StackedCausalLM(nn.Module):
    """P copies of a causal language model of transformers, with weights of their own.

    Args:
        model: The model; it is taken apart. All copies start from its weights.
        num_copies: P.

    Attributes:
        by_name (`dict[str, nn.Parameter]`): The parameters [P, ...] under the names that they have in the model.
        decayed (`set[str]`): Names of those that the Trainer decays.

    Raises:
        ValueError: The model drops out at random, or has another loss than next-token prediction.
    """

    def __init__(self, model: Any, num_copies: int) -> None:
        super().__init__()
        _check_supported(model)
        self.rows = Rows(num_copies)
        self.vocab_size = int(model.config.vocab_size)
        made: dict[int, nn.Parameter] = {}

        def stack(parameter: torch.Tensor) -> nn.Parameter:
            # Tied parameters stay tied.
            if id(parameter) not in made:
                copies = parameter.detach().unsqueeze(0).repeat(num_copies, *[1] * parameter.dim())
                made[id(parameter)] = nn.Parameter(copies, requires_grad=parameter.requires_grad)
            return made[id(parameter)]

        self.decayed = set(Trainer.get_decay_parameter_names(Trainer, model))
        self.by_name = {name: stack(parameter) for name, parameter in model.named_parameters()}
        _replace(model, self.rows, stack)
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits of each copy on its own samples.

        Args:
            input_ids: int64 [P, B, T].

        Returns:
            float32 [P, B, T, V].
        """
        num_copies, per_copy, length = input_ids.shape
        self.rows.per_copy = per_copy
        logits = self.model(input_ids=input_ids.reshape(-1, length), use_cache=False).logits
        return logits.float().view(num_copies, per_copy, length, -1)

    def losses(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Mean loss of each copy on its own samples, in nats per predicted token.

        Args:
            input_ids: int64 [P, B, T].

        Returns:
            float32 [P].
        """
        logits = self(input_ids)
        # The last token predicts nothing; ignoring it saves the copy that cutting it off would make.
        labels = F.pad(input_ids[..., 1:], (0, 1), value=-100)
        nats = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=-100, reduction="none")
        num_copies, per_copy, length = input_ids.shape
        return nats.view(num_copies, -1).sum(dim=1) / (per_copy * (length - 1))


def check_stacking(build: Callable[[], Any]) -> None:
    """Compare a stack of two copies, with different weights and rows, with two models: losses and gradients.

    Args:
        build: Makes the model, the same at each call.

    Raises:
        ValueError: The model cannot be stacked, with the reason.
    """
    generator = torch.Generator().manual_seed(0)
    singles = [build(), build()]
    name = type(singles[0]).__name__
    stacked = StackedCausalLM(build(), 2)
    ids = torch.randint(0, stacked.vocab_size, (2, 2, 8), generator=generator)
    # Padding tokens are the ones that a model may treat in another way.
    ids[:, 0, :2] = singles[0].config.pad_token_id or 0
    with torch.no_grad():
        for key, parameter in singles[1].named_parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator), alpha=0.1)
            stacked.by_name[key][1] = parameter
    wanted = [
        model(input_ids=rows, labels=rows, use_cache=False).loss for model, rows in zip(singles, ids, strict=True)
    ]
    sum(wanted).backward()
    try:
        found = stacked.losses(ids)
        found.sum().backward()
    except Exception as error:
        raise ValueError(f"{name} cannot be stacked ({type(error).__name__}: {error}); {_REMEDY}") from error
    _compare(f"{name} cannot be stacked: the losses", found, torch.stack(wanted))
    parts = [dict(model.named_parameters()) for model in singles]
    for key, parameter in stacked.by_name.items():
        grads = [part[key].grad for part in parts]
        if parameter.grad is not None:
            _compare(f"{name} cannot be stacked: the gradients of {key!r}", parameter.grad, torch.stack(grads))


def _compare(what: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    found, wanted = found.detach(), wanted.detach()
    difference = float((found - wanted).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise ValueError(f"{what} of a stack differ by {difference:.1e} from those of single models; {_REMEDY}")


def _check_supported(model: Any) -> None:
    name = type(model).__name__
    dropout = {
        f"{path or name}.{attribute}"
        for path, module in model.named_modules()
        for attribute, value in {**vars(module), **({"p": module.p} if isinstance(module, nn.Dropout) else {})}.items()
        if (attribute == "p" or "drop" in attribute) and isinstance(value, float) and value > 0
    }
    if dropout:
        raise ValueError(
            f"{name} has dropout ({', '.join(sorted(dropout)[:5])}), whose random masks a stack cannot repeat; set "
            f"the dropout fields of the model's configuration to 0. Otherwise {_REMEDY}"
        )
    if model.loss_function is not ForCausalLMLoss:
        raise ValueError(f"{name} has a loss of its own, {model.loss_function}; a stack predicts tokens: {_REMEDY}")


def _replace(module: nn.Module, rows: Rows, stack: Callable[[torch.Tensor], nn.Parameter]) -> None:
    """Replace the modules that have parameters, the outermost ones first."""
    for name, child in module.named_children():
        own = dict(child.named_parameters(recurse=False))
        if own:
            setattr(module, name, _stacked(child, rows, stack))
        else:
            _replace(child, rows, stack)


def _stacked(module: nn.Module, rows: Rows, stack: Callable[[torch.Tensor], nn.Parameter]) -> nn.Module:
    def optional(parameter: nn.Parameter | None) -> nn.Parameter | None:
        return None if parameter is None else stack(parameter)

    # Subclasses may do something else, so the types must be the very ones.
    if type(module) is nn.Linear:
        return StackedLinear(rows, stack(module.weight), optional(module.bias), transposed=False)
    if type(module) is Conv1D:
        weight, bias = dict(module.named_parameters()).values()
        return StackedLinear(rows, stack(weight), stack(bias), transposed=True)
    if type(module) is nn.Embedding and module.max_norm is None:
        return StackedEmbedding(rows, stack(module.weight), module.padding_idx)
    if type(module) is nn.LayerNorm and module.elementwise_affine:
        return StackedLayerNorm(rows, module, stack(module.weight), optional(module.bias))
    return StackedModule(rows, module, {name: stack(parameter) for name, parameter in module.named_parameters()})
