"""How many bits a quantised model spends for a token: one width for all, or a policy at a price.

Letters: E experts, N widths, S rows of a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_mixture.moe.mwq.bit_policy import BitPolicy, BitRouter, GateErrorPolicy, Gradient, cheapest_best
from hf_mixture.moe.mwq.experts import NestedExperts
from hf_mixture.moe.mwq.targets import nested_experts, refuse_on_disk


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def set_bit_budget(model: PreTrainedModel, average_bits: float) -> float:
    """Let the experts of a quantised model spend so many bits for a weight, on average over tokens.

    Without a policy the number must be one of the widths, which all tokens then get. With one, from `calibrate_bits`
    or trained, the price of a bit is set so that the policy spends at most this much on the tokens it was calibrated
    on. Other text may cost a little more or less; what a token gets does not depend on the others of its batch.

    Args:
        model: A model with nested experts, in memory or on disk.
        average_bits: Bits, from the first width to the last.

    Returns:
        The average on the sample of the policy.

    Raises:
        ValueError: If the number is out of range, or needs a policy and there is none; nothing has been changed.

    Example:
        >>> import torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import MwqConfig, calibrate_bits, quantise_experts, set_bit_budget
        >>> model = MixtralForCausalLM(MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... ))
        >>> quantise_experts(model, MwqConfig(group_size=16))
        >>> calibrate_bits(model, [{"input_ids": torch.arange(32)[None]}])
        >>> set_bit_budget(model, 2.5) <= 2.5
        True
    """
    modules = _nested(model)
    widths = modules[0].mwq_widths
    if not widths[0] <= average_bits <= widths[-1]:
        raise ValueError(
            f"average_bits={average_bits!r} is not between {widths[0]} and {widths[-1]}, the widths of this model"
        )
    policies = [module.mwq_policy for module in modules if module.mwq_policy is not None]
    if not policies:
        if average_bits not in widths:
            raise ValueError(
                f"average_bits={average_bits!r} is none of the widths {widths}, and the model has no policy that "
                "mixes them; call calibrate_bits(model, batches) first, or train bit routers"
            )
        for module in modules:
            module.mwq_width = int(average_bits)
        return float(average_bits)
    if not all(len(policy.sampled()) for policy in policies):
        raise ValueError(
            "the policy of this model has no sample of scores to find a price with; train its bit routers, or call "
            "calibrate_bits(model, batches)"
        )
    sample = torch.cat([policy.sampled() for policy in policies]).double()
    price, spent = _price(sample, widths, average_bits)
    for policy in policies:
        policy.price.fill_(price)
    return spent


def calibrate_bits(model: PreTrainedModel, batches: Iterable[Mapping[str, Any]]) -> None:
    """Give a quantised model a policy of bits without training: by gate weight and quantisation error.

    A model with trained bit routers keeps them, and gets a sample of their scores. The policy begins with the price 0,
    at which it spends what it likes; `set_bit_budget` sets another.

    Args:
        model: A model with nested experts in memory.
        batches: Keyword arguments of forward calls, such as `[{"input_ids": ...}]`.

    Raises:
        ValueError: If the model has no nested experts, they are on disk, or there are no batches.

    Example:
        >>> import torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import MwqConfig, calibrate_bits, quantise_experts
        >>> model = MixtralForCausalLM(MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... ))
        >>> quantise_experts(model, MwqConfig(group_size=16))
        >>> calibrate_bits(model, [{"input_ids": torch.arange(32)[None]}])
        >>> model.config.quantization_config.bit_policy
        {'kind': 'gate_error'}
    """
    modules = _nested(model)
    refuse_on_disk(model, "be measured")
    policies = [_policy_of(module) for module in modules]
    if _config_of(model).bit_policy is None:
        _config_of(model).bit_policy = {"kind": "gate_error"}
    was_training = model.training
    model.eval()
    for policy in policies:
        policy.num_sampled.zero_()
        policy.keeps_sample = True
    num_batches = 0
    try:
        with torch.no_grad():
            for batch in tqdm(batches, desc="Calibrating bits", unit="batch", delay=2):
                model(**batch)
                num_batches += 1
    finally:
        model.train(was_training)
        for policy in policies:
            policy.keeps_sample = False
    if not num_batches:
        raise ValueError("batches is empty; give some text that the model is used on")


def add_bit_routers(model: PreTrainedModel, *, gradient: Gradient = "straight_through") -> list[nn.Parameter]:
    """Give the experts of a quantised model bit routers to train, and freeze everything else.

    Args:
        model: A model with nested experts in memory.
        gradient: How the loss reaches a router through its choice; see `BitRouter`. Default: `"straight_through"`.

    Returns:
        The parameters of the routers.

    Raises:
        ValueError: If the model has no nested experts or they are on disk, or the gradient is unknown.

    Example:
        >>> import torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import MwqConfig, add_bit_routers, quantise_experts
        >>> model = MixtralForCausalLM(MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... ))
        >>> quantise_experts(model, MwqConfig(group_size=16))
        >>> [tuple(parameter.shape) for parameter in add_bit_routers(model)]
        [(4, 3, 16), (4, 3)]
    """
    modules = _nested(model)
    refuse_on_disk(model, "be trained")
    if gradient not in ("straight_through", "scale"):
        raise ValueError(f"gradient={gradient!r} is unknown; it is 'straight_through' or 'scale'")
    model.requires_grad_(False)
    routers = []
    for module in modules:
        planes = module.planes_of(module.matrices()[0])
        router = BitRouter(module.mwq_widths, module.num_experts, 8 * planes.base.shape[-1], gradient)
        module.mwq_policy = router.to(planes.base.device)
        routers.append(router)
    _config_of(model).bit_policy = {"kind": "router", "gradient": gradient}
    return [parameter for router in routers for parameter in router.parameters()]


def average_bits(model: PreTrainedModel) -> float:
    """Bits that the policy of a model has spent for a weight since it was last asked, on average over places.

    Args:
        model: A model with nested experts.

    Returns:
        The average, NaN if nothing was computed; the width of all tokens where there is no policy.

    Example:
        >>> import torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import MwqConfig, average_bits, set_bit_budget, quantise_experts
        >>> model = MixtralForCausalLM(MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... ))
        >>> quantise_experts(model, MwqConfig(group_size=16))
        >>> _ = set_bit_budget(model, 3)
        >>> average_bits(model)
        3.0
    """
    modules = _nested(model)
    policies = [module.mwq_policy for module in modules if module.mwq_policy is not None]
    if not policies:
        return float(modules[0].mwq_width)
    counts = [sum(of_width) for of_width in zip(*(policy.take_counts() for policy in policies), strict=True)]
    bits = sum(width * count for width, count in zip(policies[0].widths, counts, strict=True))
    return bits / sum(counts) if any(counts) else float("nan")


def attach_policy(experts: Any, kind: Mapping[str, Any]) -> None:
    """Put the policy that a configuration names into experts with planes, without its values."""
    if kind.get("kind") == "router":
        hidden_size = 8 * experts.planes_of(experts.matrices()[0]).base.shape[-1]
        experts.mwq_policy = BitRouter(experts.mwq_widths, experts.num_experts, hidden_size, kind["gradient"])
    elif kind.get("kind") == "gate_error":
        experts.mwq_policy = GateErrorPolicy(experts.mwq_widths, experts.num_experts)
    else:
        raise ValueError(f"bit_policy={dict(kind)} is not known; update hf_mixture")


def _price(sample: Tensor, widths: tuple[int, ...], average_bits: float) -> tuple[float, float]:
    """The lowest price at which the sample [S, N] costs at most so much, and what it costs then."""

    def spent(price: float) -> float:
        return widths[0] + float(cheapest_best(sample, price).double().mean())

    largest = float((sample.max() - sample.min()).abs()) + 1.0
    low, high = -largest, largest
    if spent(low) <= average_bits:
        return low, spent(low)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= average_bits else (middle, high)
    return high, spent(high)


def _policy_of(experts: NestedExperts) -> BitPolicy:
    """The policy of experts; where they have none, one by gate weight and error, with its errors measured."""
    if experts.mwq_policy is not None:
        return experts.mwq_policy
    policy = GateErrorPolicy(experts.mwq_widths, experts.num_experts)
    experts.mwq_policy = policy
    planes = [experts.planes_of(name) for name in experts.matrices()]
    policy.to(planes[0].base.device)
    for expert in range(len(policy.error)):
        matrices = [matrix.of([tensor[expert] for tensor in matrix.tensors()]) for matrix in planes]
        full = [matrix.dequantise() for matrix in matrices]
        for level, width in enumerate(experts.mwq_widths[:-1]):
            errors = [
                (matrix.dequantise(width) - best).norm() / best.norm().clamp(min=1e-12)
                for matrix, best in zip(matrices, full, strict=True)
            ]
            policy.error[expert, level] = torch.stack(errors).mean()
    return policy


def _nested(model: PreTrainedModel) -> list[Any]:
    modules = list(nested_experts(model).values())
    if not modules:
        raise ValueError(
            f"this {type(model).__name__} has no nested experts; load it with quantization_config=MwqConfig(...), or "
            "call quantise_experts(model)"
        )
    return modules


def _config_of(model: PreTrainedModel) -> Any:
    return model.config.quantization_config
