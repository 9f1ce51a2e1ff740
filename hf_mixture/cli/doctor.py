"""`hf-mixture doctor`: is this environment supported, and what does a folder need before it loads?"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import operator
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_mixture.hub.artefacts import Artefact


def add_parser(subparsers: Any) -> None:
    """Add the `doctor` subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installed versions, or say what an artefact needs",
        description="Without FOLDER: compare the installed versions with the supported ones and try the registration. "
        "With FOLDER: say what it holds, what it needs to load, and what is wrong with it. Exit code 1: problems.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="a folder with whatever this package writes (an adapter, a model, a mixture, edits, a partition, a pack, "
        "a trace, a run), or a Hub id of a model or data set",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, needs_registration=False)


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 if it names a problem."""
    if args.folder is None:
        report = environment_report()
        _print(report, as_json=args.json, lines=_environment_lines(report))
        return int(bool(report["problems"]))

    from hf_mixture.hub.artefacts import inspect_artefacts

    artefacts = inspect_artefacts(args.folder, CHECKS)
    report = {"artefacts": [dataclasses.asdict(artefact) for artefact in artefacts]}
    _print(report, as_json=args.json, lines=_artefact_lines(artefacts))
    return int(any(artefact.problems for artefact in artefacts))


def environment_report() -> dict[str, Any]:
    """Compare the installed versions with the ranges that the package declares, and try the registration.

    Returns:
        `packages` (rows of name, installed, supported, ok), `python`, `registration`, and `problems` (texts with the
        remedy).
    """
    from packaging.requirements import Requirement

    packages, problems = [], []
    for text in importlib.metadata.requires("hf-mixture") or []:
        requirement = Requirement(text)
        optional = requirement.marker is not None and "extra" in str(requirement.marker)
        if optional:
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = ""
        supported = bool(installed) and requirement.specifier.contains(installed, prereleases=True)
        packages.append(
            {
                "name": requirement.name,
                "installed": installed,
                "supported": str(requirement.specifier),
                "ok": supported,
            }
        )
        if not supported:
            state = f"is {installed}" if installed else "is not installed"
            remedy = f'pip install "{requirement.name}{requirement.specifier}"'
            problems.append(f"{requirement.name} {state}; hf_mixture supports {requirement.specifier}: {remedy}")
    registration = _try_registration()
    if registration != "ok":
        problems.append(f"import hf_mixture fails: {registration}")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "registration": registration,
        "problems": problems,
    }


def check_mos_adapter(folder: Path) -> None:
    """Check the configuration, pools and indices of a MoS adapter.

    Args:
        folder: The adapter folder.

    Raises:
        ValueError: If the configuration breaks a rule, or the weights do not belong to it.
    """
    _register()
    from hf_mixture.adapters.mos.checkpoint import check_folder

    check_folder(folder)


def check_maps(folder: Path) -> None:
    """Check the maps of experts of a folder.

    Args:
        folder: The folder.

    Raises:
        ValueError: If a file is damaged.
    """
    from hf_mixture.moe.mote import maps_file, resonance_file

    if (folder / resonance_file.FILE_NAME).is_file():
        resonance_file.read(folder)
    if (folder / maps_file.FILE_NAME).is_file():
        maps_file.read_maps(folder)


def check_pack(folder: Path) -> None:
    """Check the sizes of the files of a pack, and their checksum.

    Args:
        folder: The folder.

    Raises:
        ValueError: If a file is damaged.
    """
    from hf_mixture.data.pack import TokenPack
    from hf_mixture.data.pack_files import content_hash

    if TokenPack(folder).header["sha256"] != content_hash(folder):
        raise ValueError(f"the tokens or offsets of {folder} are not those that pack.json was written with")


def check_planes(folder: Path) -> None:
    """Check the planes of a nested model against their checksums.

    Args:
        folder: The folder.

    Raises:
        ValueError: If a file is damaged.
    """
    _register()
    from hf_mixture.hub.damage import naming
    from hf_mixture.hub.reading import read_object
    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.moe.mwq.files import check_checksums, is_plane_file

    config = read_object(folder / "config.json")
    with naming(folder / "config.json"):
        MwqConfig(**config["quantization_config"])
    check_checksums([file for file in sorted(folder.glob("mwq-*.safetensors")) if is_plane_file(file)])


def _loads(module: str, reader: str) -> Callable[[Path], None]:
    """A check of the kinds that are sound if their reader takes them."""

    def check(folder: Path) -> None:
        operator.attrgetter(reader)(importlib.import_module(module))(folder)

    return check


CHECKS = {
    "MOS adapter": check_mos_adapter,
    "MWQ model": check_planes,
    "expert edits (MoTE)": _loads("hf_mixture.moe.mote.edits", "ExpertEdits.from_pretrained"),
    "maps of classes (MoTE)": check_maps,
    "maps of prompts (MoTE)": check_maps,
    "mixture": _loads("hf_mixture.data.mixture", "Mixture.from_pretrained"),
    "partition (PPP)": _loads("hf_mixture.data.clustering.ppp", "ProbabilisticPartition.from_pretrained"),
    "router trace": _loads("hf_mixture.moe.trace", "load_trace"),
    "token pack": check_pack,
}


def _register() -> None:
    from hf_mixture.cli.main import finish_import

    finish_import()


def _try_registration() -> str:
    try:
        _register()
        from peft import PeftType

        return "ok" if "MOS" in PeftType.__members__ else "PeftType has no member MOS"
    except Exception as error:  # whatever a mismatched stack raises is the finding
        cause = error.__cause__ or error
        return f"{type(cause).__name__}: {cause}"


def _print(report: dict[str, Any], *, as_json: bool, lines: list[str]) -> None:
    if as_json:
        json.dump({"format": "hf_mixture/doctor", "version": 1, **report}, sys.stdout, indent=2, default=str)
        print()
    else:
        print("\n".join(lines))


def _environment_lines(report: dict[str, Any]) -> list[str]:
    lines = [f"Python {report['python']} on {report['platform']}"]
    width = max(len(package["name"]) for package in report["packages"])
    for package in report["packages"]:
        mark = "ok" if package["ok"] else "PROBLEM"
        lines.append(
            f"{package['name']:<{width}}  {package['installed'] or '-':<12}  {package['supported']:<16}  {mark}"
        )
    lines.append(f"registration of the adapter types: {report['registration']}")
    lines += [f"problem: {problem}" for problem in report["problems"]] or ["no problems found"]
    return lines


def _artefact_lines(artefacts: list[Artefact]) -> list[str]:
    lines = []
    for artefact in artefacts:
        lines.append(f"{artefact.path}: {artefact.kind}")
        lines += [f"  {name}: {value}" for name, value in artefact.facts.items()]
        lines += [f"  needs: {need}" for need in artefact.needs]
        for problem in artefact.problems:
            lines += [f"  PROBLEM: {problem.what}", f"    fix: {problem.fix}"]
        if not artefact.problems:
            lines.append("  no problems found")
    return [_printable(line) for line in lines]


def _printable(line: str) -> str:
    """A line with what files of others say: they must not end it, nor talk to the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
