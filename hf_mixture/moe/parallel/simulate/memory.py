"""Memory of the busiest device, and bytes by the formulas of the paper.

Letters: D devices, E experts of a layer, n tokens of a device.
"""

from __future__ import annotations

from hf_mixture.moe.parallel.simulate.hardware import Machine
from hf_mixture.moe.parallel.simulate.systems.base import System


# Bytes for each parameter that an optimizer (Adam) keeps, beside 16-bit weights and gradients: 3 numbers of 32 bits.
_OPTIMIZER_BYTES = 12
# 16-bit activations of attention and norms for each token and hidden size, scores computed again (Korthikanti et al.,
# arXiv 2205.05198).
_ATTENTION_BYTES = 15


def memory_of(machine: Machine, system: System, *, num_experts: int, copies: float, load: float) -> dict[str, float]:
    """Bytes of the busiest device by purpose, for the whole model.

    Dense parameters are on every device, with gradients and the state of the optimizer. Copies are weights, and
    gradients of one layer at a time, unless they stay.

    Args:
        machine: The machine.
        system: What holds copies.
        num_experts: E.
        copies: Copies that a device holds, on the mean of layers.
        load: Tokens that the busiest device processes in a layer.

    Returns:
        Bytes for `"parameters"`, `"gradients"`, `"optimizer"` and `"activations"`.
    """
    model = machine.model
    router = model.hidden * num_experts
    dense = model.num_layers * (model.attention_parameters + router)
    dense += (model.vocab_size + model.sequence) * model.hidden
    owned = model.num_layers * num_experts / machine.devices.num_devices * model.expert_parameters
    layer = copies * model.expert_parameters
    live = layer * (model.num_layers if system.live_layers is None else min(system.live_layers, model.num_layers))
    # Inputs of both matrices, and what the activation function takes.
    row = (1 + 2 * model.inner_factor) * model.token_bytes
    activations = _ATTENTION_BYTES * machine.num_tokens * model.hidden + load * row
    return {
        "parameters": 2 * (dense + owned + live),
        "gradients": 2 * (dense + owned + (live if system.copies_persist else layer)),
        "optimizer": _OPTIMIZER_BYTES * (dense + owned + (live if system.copies_persist else 0)),
        "activations": model.num_layers * activations,
    }


def fully_sharded_bytes(machine: Machine, num_experts: int) -> float:
    """What a device receives for a layer with fully sharded experts (FSDP): 3 (D - 1) / D of all experts.

    Args:
        machine: The machine.
        num_experts: E.
    """
    num_devices = machine.devices.num_devices
    return 3 * (num_devices - 1) / num_devices * num_experts * machine.model.expert_bytes


def expert_parallel_bytes(machine: Machine, imbalance: float) -> float:
    """What a device moves for the tokens of a layer, those that stay counted: 4 n k h b times the imbalance.

    Args:
        machine: The machine.
        imbalance: Largest over mean load.
    """
    return 4 * machine.num_tokens * machine.model.top_k * machine.model.token_bytes * imbalance
