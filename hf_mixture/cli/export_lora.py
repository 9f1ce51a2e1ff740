"""`hf-mixture export-lora`: a MoS adapter as a LoRA that needs no hf_mixture to load."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `export-lora` subcommand."""
    parser = subparsers.add_parser(
        "export-lora",
        help="write a MoS adapter as the exact LoRA of the same rank, which stock PEFT loads",
        description="Writes the LoRA of rank r that computes the same as a MoS adapter. Only the configuration of the "
        "base model is read, not its weights.",
    )
    parser.add_argument("adapter", metavar="ADAPTER_DIR", help="folder of the MoS adapter")
    parser.add_argument("output", metavar="OUT_DIR", help="folder to write; new or empty")
    parser.add_argument("--base-model", metavar="ID", help="Hub id or folder; defaults to the one the adapter names")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export and say what was written."""
    from hf_mixture.adapters.mos.export_folder import export_lora_folder

    folder = export_lora_folder(args.adapter, args.output, base_model=args.base_model)
    size = (folder / "adapter_model.safetensors").stat().st_size
    print(f"{folder}: a LoRA adapter of {size:,} bytes; it loads wherever LoRA does, without hf_mixture")
    return 0
