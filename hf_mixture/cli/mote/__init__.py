"""`hf-mixture mote`: one action per file of this folder, each with `add_parser(actions)` and `run(args) -> int`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the `mote` subcommand with the actions of this folder."""
    parser = subparsers.add_parser("mote", help="find experts that go with a behaviour, and switch them off or on")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}").add_parser(actions)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every action has that runs a model."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub repository of the model, or of its expert edits")
    parser.add_argument("--revision", help="branch, tag or commit of the model")
    parser.add_argument("--dtype", default="auto", help="as in from_pretrained (default: auto)")
    parser.add_argument("--device-map", help="as in from_pretrained, such as auto (default: the CPU)")


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    """Load the model of a command, and its tokenizer."""
    from transformers import AutoTokenizer

    from hf_mixture.hub.damage import loading

    model = load_model(args)
    with loading(args.model):
        return model, AutoTokenizer.from_pretrained(args.model, revision=args.revision)


def load_model(args: argparse.Namespace) -> Any:
    """Load the model of a command."""
    from transformers import AutoModelForCausalLM

    from hf_mixture.hub.damage import loading

    options = {"revision": args.revision, "dtype": args.dtype}
    if args.device_map is not None:
        options["device_map"] = args.device_map
    with loading(args.model):
        return AutoModelForCausalLM.from_pretrained(args.model, **options).eval()


def behaviour_of(text: str) -> Any:
    """Make the classifier of `--behaviour`: a name, a JSON object, or a file with one."""
    from hf_mixture.hub.damage import naming
    from hf_mixture.hub.reading import parse_json, read_object
    from hf_mixture.moe.mote.behaviours import make_behaviour

    if text.endswith(".json") and Path(text).is_file():
        with naming(text):
            return make_behaviour(read_object(text))
    if not text.lstrip().startswith("{"):
        return make_behaviour(text)
    return make_behaviour(parse_json(text, f"--behaviour {text!r}", remedy="correct it"))
