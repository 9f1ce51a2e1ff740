"""`hf-mixture`: one subcommand per file of this folder, each with `add_parser(subparsers)` and `run(args) -> int`.

The files import nothing heavy at their top, so that `--help` answers at once. A subcommand that works without the
registrations of `import hf_mixture` says so with `set_defaults(needs_registration=False)`.

Exit codes: 0 done, 1 the work failed or a check found problems, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import importlib.metadata
import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn


# What the operating system says of a place to write to, and what helps.
_REMEDIES = {
    errno.EACCES: "choose a place that you may read and write",
    errno.ENOENT: "check the path",
    errno.EEXIST: "it is a file where a folder is needed, choose another name",
    errno.ENOSPC: "free some space, or choose another folder",
    errno.ENOTDIR: "a part of the path is a file, choose another folder",
    errno.EPERM: "choose a place that you may read and write",
    errno.EROFS: "choose a folder that can be written to",
}


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:
        # An abbreviated option would shadow a recipe key of the same spelling.
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            nearest = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
            remedy = f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(names)}"
            raise argparse.ArgumentError(action, f"unknown choice {value!r}; {remedy}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser from the files of this folder."""
    parser = _Parser(
        prog="hf-mixture",
        description="Mixtures of parameters, experts, models and data on the Hugging Face stack.",
        epilog="Begin with hf-mixture list, and hf-mixture describe NAME. A RECIPE is a YAML file or the name of a "
        "packaged one; with --dry-run a command prints its plan and writes nothing. Exit codes: 0 done, 1 the work "
        "failed or a check found problems, 2 the input is wrong.",
    )
    parser.add_argument(
        "--version", action="version", version=f"hf-mixture {importlib.metadata.version('hf-mixture')}"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name != "main":
            importlib.import_module(f"hf_mixture.cli.{module.name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: Arguments without the program name. Defaults to those of the process.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    if not words:
        parser.print_help(sys.stderr)
    try:
        args, unknown = parser.parse_known_args(["--help"] if words == ["help"] else words)
    except SystemExit as stop:
        return int(stop.code or 0)
    if unknown and not getattr(args, "accepts_overrides", False):
        print(f"error: unknown arguments {' '.join(unknown)}; see hf-mixture {args.command} --help", file=sys.stderr)
        return 2
    args.overrides = unknown
    try:
        if getattr(args, "recipe", None) is not None:
            # A name that does not exist is said at once, not after seconds of imports.
            from hf_mixture.training.resolve import find_recipe

            find_recipe(args.recipe)
        if getattr(args, "needs_registration", True):
            finish_import()
        code = int(args.run(args))
        _leave_process_group()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left; the interpreter flushes stdout again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.traceback:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | TypeError | OSError) else 1


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        # Libraries that write for us say what the system says in words of their own, without the place.
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{os.strerror(error.errno)}; {_REMEDIES[error.errno]}"
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError) and text:
        return text
    return f"{type(error).__name__}: {text}; hf-mixture --traceback before the command shows where it comes from"


@contextlib.contextmanager
def only_json_on_stdout(*, wanted: bool = True) -> Iterator[None]:
    """Send to stderr what the block prints, and the processes that it starts: stdout is left to JSON alone.

    Args:
        wanted: Whether to do so; what `--json` says.
    """
    if not wanted:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 1)
        os.close(saved)


def _leave_process_group() -> None:
    """Leave the group that a Trainer has joined: a process that exits with gloo's threads alive may abort."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def finish_import() -> None:
    """Run `hf_mixture/__init__.py`, with its registrations, where the console script has put it off.

    Raises:
        ImportError: If the installed versions of the stack do not work together.
    """
    # bitsandbytes warns in each process without the optional `kernels` package; in a command's output it is noise.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # What peft still calls, and transformers warns of, at the start of each training.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    package = sys.modules["hf_mixture"]
    if "__all__" in vars(package):
        return
    try:
        package.__spec__.loader.exec_module(package)  # type: ignore[union-attr]
    except ImportError as error:
        raise ImportError(
            f"{error}; hf-mixture doctor compares the installed versions with the supported ones"
        ) from error
