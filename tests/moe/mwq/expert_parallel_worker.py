"""A nested model with its experts spread over two processes; run under torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist


IDS = torch.arange(5, 25).view(2, 10)


def main(folders: Path, out: Path, sharing: str) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    import hf_mixture  # noqa: F401 - registers the quantisation method
    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.moe.mwq.targets import nested_experts

    dist.init_process_group("gloo")
    assert dist.get_world_size() == 2
    spread = DistributedConfig(ep_size=2, **{f"{sharing}_size": 2})
    model = AutoModelForCausalLM.from_pretrained(folders / "nested", distributed_config=spread)
    experts = next(iter(nested_experts(model).values()))
    assert experts.num_experts == 4
    assert experts.gate_up_proj_base.to_local().shape[0] == experts.down_proj_sign_4.to_local().shape[0] == 4
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
    logits = logits.full_tensor() if hasattr(logits, "full_tensor") else logits
    torch.testing.assert_close(logits, torch.load(out / "expected.pt", weights_only=True), rtol=1e-4, atol=1e-4)
    model.save_pretrained(out / "saved")
    dist.barrier()
    config = MwqConfig(group_size=16)
    with pytest.raises(ValueError, match="cannot be quantised while its weights are spread over processes"):
        AutoModelForCausalLM.from_pretrained(folders / "full", quantization_config=config, distributed_config=spread)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
