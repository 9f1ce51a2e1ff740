"""Experts spread over two processes by `fssdp`, and every other change of the same model; run under torchrun.

Works: both processes have the outputs that one process has, gradients are finite and, where an adapter is trained, the
same on both processes, and what is saved loads on one process with the same outputs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from composition import ADAPTERS, CHANGES, REFUSED, TOKENS, WORKS, load, logits, make_base
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from hf_mixture import FssdpOptions, set_fssdp_options


NAME = "fssdp on 2 processes"


def spread(folder: Path) -> Any:
    config = DistributedConfig(ep_size=2, fsdp_size=2, ep_implementation="fssdp")
    return AutoModelForCausalLM.from_pretrained(folder, distributed_config=config).eval()


def whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def everywhere(value: Any) -> list[Any]:
    found: list[Any] = [None, None]
    dist.all_gather_object(found, value)
    return found


def check_gradients(model: Any, adapted: bool) -> None:
    """Each process trains on text of its own."""
    model.train()
    tokens = TOKENS + 24 * dist.get_rank()
    model(input_ids=tokens, labels=tokens).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert gradients
    assert all(grad is not None and torch.isfinite(whole(grad)).all() for grad in gradients.values())
    if adapted:
        sums = everywhere({name: whole(grad).double().sum().item() for name, grad in gradients.items()})
        assert sums[0] == sums[1], "the adapter's gradients differ between processes, and so would its weights"
    model.zero_grad()
    model.eval()


def observe(first: str, second: str, base: Path, folder: Path) -> dict[str, str]:
    """What becomes of a pair, one of which is `NAME`; see `composition.observe`."""
    name = second if first == NAME else first
    change = CHANGES[name]
    expected = change.apply(load(base))
    try:
        if first == NAME:
            model = spread(base)
            before = whole(logits(model))
            try:
                model = change.apply(model)
            except (TypeError, ValueError):
                assert torch.equal(whole(logits(model)), before), "a refusal has changed the model"
                raise
        else:
            if dist.get_rank() == 0:
                expected.save_pretrained(folder / "changed")
            dist.barrier()
            model = spread(folder / "changed")
    except (TypeError, ValueError) as error:
        return {"outcome": REFUSED, "says": " ".join(str(error).split())}
    torch.testing.assert_close(whole(logits(model)), logits(expected), rtol=1e-4, atol=1e-4)
    try:
        # What `FssdpCallback` says when a training begins.
        set_fssdp_options(model, FssdpOptions())
    except ValueError as error:
        return {"outcome": REFUSED, "says": " ".join(str(error).split())}
    check_gradients(model, name in ADAPTERS)
    model.save_pretrained(folder / "saved")
    dist.barrier()
    saved = folder / "saved"
    loaded = reload_saved(name, saved, base) if first == NAME else load(saved)
    torch.testing.assert_close(logits(loaded), logits(expected), rtol=1e-4, atol=1e-4)
    return {"outcome": WORKS}


def reload_saved(name: str, saved: Path, base: Path) -> Any:
    from peft import PeftModel

    if name in ADAPTERS:
        return PeftModel.from_pretrained(load(base), saved).eval()
    loaded = load(saved)
    return loaded if CHANGES[name].saved or name == "compile" else CHANGES[name].apply(loaded)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    assert dist.get_world_size() == 2
    base = folder / "base"
    if dist.get_rank() == 0:
        make_base(base)
    dist.barrier()
    applied = [name for name, change in CHANGES.items() if change.apply is not None]
    pairs = [(NAME, name) for name in applied] + [(name, NAME) for name in applied if CHANGES[name].saved]
    rows = []
    for first, second in pairs:
        found = everywhere(observe(first, second, base, folder / f"{first}-{second}"))
        assert found[0] == found[1], f"{first}, then {second}: the processes disagree: {found}"
        rows.append({"first": first, "second": second, **found[0]})
    if dist.get_rank() == 0:
        (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
