"""`hf-mixture mix export`: a mixture as the configuration of another trainer."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from hf_mixture.cli.mix import add_mixture_action


# Flag to (option of the target, type, help).
_OPTIONS: dict[str, tuple[str, Any, str]] = {
    "--sequence-length": ("sequence_length", int, "tokens of a sample (megatron, nanotron)"),
    "--global-batch-size": ("global_batch_size", int, "samples of an optimizer step (megatron, nanotron)"),
    "--train-iterations": ("train_iterations", int, "optimizer steps of the run (megatron, nanotron)"),
    "--mix-strategy": ("mix_strategy", str, "interleave_under, interleave_over or interleave_once (llamafactory)"),
    "--samples": ("samples", str, "what a sample is: blocks or examples (streaming, torchtitan)"),
    "--num-examples": ("num_examples", int, "examples of an epoch (axolotl)"),
    "--type": ("type", str, "how a row is read (axolotl)"),
    "--batching-method": ("batching_method", str, "as in streaming"),
    "--split": ("split", str, "subfolder of each source (streaming)"),
    "--local": ("local", str, "folder of the cache (streaming)"),
    "--unit": ("unit", str, "what the weights count: examples, tokens or bytes (csv, json)"),
}


def add_parser(actions: Any) -> None:
    """Add the action."""
    text = "write a mixture as the configuration of another trainer; exit code 1 when it cannot express everything"
    parser = add_mixture_action(actions, "export", run, text)
    parser.add_argument(
        "--to",
        required=True,
        metavar="TARGET",
        help="trl, axolotl, llamafactory, megatron, streaming, nanotron, torchtitan, fast-llm, csv, json or "
        "probabilities",
    )
    parser.add_argument("--output", metavar="DIR", help="folder to write to (default: print the files)")
    parser.add_argument(
        "--accept-losses", action="store_true", help="export although the target cannot express everything"
    )
    parser.add_argument("--digits", type=int, help="decimals of the weights, by largest remainder (default: exact)")
    parser.add_argument(
        "--mean-tokens",
        nargs="+",
        metavar="NAME=NUMBER",
        help="mean tokens of an example, by source or as one number for all (default: from the recorded sizes)",
    )
    parser.add_argument(
        "--paths",
        nargs="+",
        metavar="NAME=PATH",
        help="prepared data of each source, or one path with {name} in it (megatron, streaming, nanotron, fast-llm)",
    )
    for flag, (name, kind, words) in _OPTIONS.items():
        parser.add_argument(flag, type=kind, dest=f"option_{name}", help=words)


def run(args: argparse.Namespace) -> int:
    """Export, and print or write the files; 1 when there are losses that were not accepted."""
    import json

    from hf_mixture.data.export import export_mixture
    from hf_mixture.data.mixture import Mixture

    mixture = Mixture.from_pretrained(args.path, revision=args.revision)
    options = {name: getattr(args, f"option_{name}") for name, _, _ in _OPTIONS.values()}
    options["paths"] = _paths(args.paths)
    result = export_mixture(
        mixture,
        args.to,
        accept_losses=True,
        mean_lengths=_mean_lengths(args.mean_tokens),
        digits=args.digits,
        **{name: value for name, value in options.items() if value is not None},
    )
    if result.losses and not args.accept_losses:
        print(
            f"error: {args.to} cannot express: {'; '.join(result.losses)}; change the mixture or pass --accept-losses",
            file=sys.stderr,
        )
        return 1
    written = result.save(args.output) if args.output else []
    if args.json:
        report = {
            "target": result.target,
            "files": written or dict(result.files),
            "unit_note": result.unit_note,
            "losses": list(result.losses),
            "notes": list(result.notes),
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return 0
    for path in written:
        print(f"wrote {path}")
    if not written:
        for name, text in result.files.items():
            print(f"# {name}\n{text}")
    # Standard output holds the files alone, for a pipe.
    for kind, lines in (("numbers", [result.unit_note]), ("lost", result.losses), ("note", result.notes)):
        for line in lines:
            print(f"{kind}: {line}", file=sys.stderr)
    return 0


def _pairs(option: str, words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not (separator and name and value):
            raise ValueError(f"{option} {word} is not NAME=VALUE; correct it")
        pairs[name] = value
    return pairs


def _paths(words: list[str] | None) -> dict[str, str] | str | None:
    if words is None or (len(words) == 1 and "=" not in words[0]):
        return words[0] if words else None
    return _pairs("--paths", words)


def _mean_lengths(words: list[str] | None) -> dict[str, Any] | None:
    if words is None:
        return None
    try:
        if len(words) == 1 and "=" not in words[0]:
            return {"tokens": float(words[0])}
        return {"tokens": {name: float(value) for name, value in _pairs("--mean-tokens", words).items()}}
    except ValueError as error:
        raise ValueError(f"--mean-tokens {' '.join(words)}: {error}; give numbers") from None
