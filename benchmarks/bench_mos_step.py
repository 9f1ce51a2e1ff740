"""Training step of MoS against LoRA of its active and of its equivalent rank, VB-LoRA and VeRA: time and memory.

12 layers, hidden size 512, all seven linear types; a step is forward, backward and AdamW.
"""

from __future__ import annotations

import torch
from common import write
from mos_models import VOCABULARY, adapter_configs, base_model, compare_steps


BATCH, LENGTH, ROUNDS = 4, 64, 24


def main() -> None:
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    result = compare_steps(base_model(), adapter_configs(), tokens, rounds=ROUNDS)
    setting = {"layers": 12, "hidden": 512, "batch": BATCH, "length": LENGTH, "rounds": ROUNDS}
    write("mos_step", {"setting": setting, **result})


if __name__ == "__main__":
    main()
