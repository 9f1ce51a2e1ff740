"""Bytes of saved adapters: MoS against its own pools and indices, LoRA, VB-LoRA and VeRA."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import print_table, write
from mos_models import MOS, adapt, adapter_configs, base_model, trainable
from tqdm import tqdm

from hf_mixture.adapters.mos.bank import find_bank
from hf_mixture.adapters.mos.layer import MosLayer


def pool_and_index_bytes(model) -> dict[str, int]:
    """Bytes of the tensors that a MoS adapter consists of."""
    _, bank = find_bank(model)
    layers = [module for module in model.modules() if isinstance(module, MosLayer)]
    return {
        "pools": sum(pool.nbytes for pool in bank.parameters()),
        "indices": sum(index.nbytes for layer in layers for index in layer.mos_index.buffers()),
    }


def main() -> None:
    base, methods, parts = base_model(), {}, {}
    for name, config in tqdm(adapter_configs().items(), desc="adapters"):
        model = adapt(base, config)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            file_bytes = (Path(folder) / "adapter_model.safetensors").stat().st_size
        methods[name] = {
            "trainable_parameters": sum(parameter.numel() for parameter in trainable(model)),
            "file_bytes": file_bytes,
        }
        if name == MOS:
            parts = pool_and_index_bytes(model)
    ours = methods[MOS]["file_bytes"]
    ratios = {f"{MOS} / {name}": ours / row["file_bytes"] for name, row in methods.items() if name != MOS}
    overhead = ours / sum(parts.values()) - 1
    print_table(
        ["method", "trainable", "file bytes", "MoS / method"],
        [
            [
                name,
                f"{row['trainable_parameters']:,}",
                f"{row['file_bytes']:,}",
                f"{ratios[f'{MOS} / {name}']:.3f}" if name != MOS else "",
            ]
            for name, row in methods.items()
        ],
    )
    print(f"MoS: {parts['pools']:,} bytes of pools, {parts['indices']:,} of indices; the file has {overhead:.2%} more")
    write(
        "mos_adapter_bytes",
        {
            "setting": {"layers": 12, "hidden": 512},
            "methods": methods,
            "mos_parts": parts,
            "mos_file_over_parts": overhead,
            "ratios": ratios,
        },
    )


if __name__ == "__main__":
    main()
