"""Seven domains of real text, from Debian packages and the standard library: one JSON-lines file for each.

    python benchmarks/corpora.py

downloads 43 MB with `apt-get download` (no root, checked by apt against the signed index of the mirror), unpacks them
with `dpkg-deb -x` and writes `<domain>.jsonl` with the columns text, path and license, and `corpora.json` with the
version, the licence and the hashes of everything, into `$XDG_CACHE_HOME/hf_mixture/corpora`. Nothing is vendored.

A row is a file of the package; packages that hold one large file are cut into chapters or pieces. Copies and near
copies are dropped, and a domain is a sample of at most 8 MB in the order of a hash of the paths. `load_domain` holds
out by path.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hf_mixture.data.prose import Seen
from hf_mixture.data.textfiles import read_text
from hf_mixture.hub.atomic import write_atomic


FORMAT, VERSION = "hf_mixture_corpora", 1
MAX_BYTES = 8_000_000
PIECE_CHARS = 16_000
MIN_CHARS = 200
COMMAND = "python benchmarks/corpora.py"

Documents = Iterator[tuple[str, str]]


def stdlib_code(root: Path) -> Documents:
    """Source files of the standard library, without its tests."""
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if not {"site-packages", "test", "tests", "idle_test", "__pycache__"} & set(name.parts):
            text = read_text(path)
            if text is not None:
                yield name.as_posix(), text


def bible_chapters(root: Path) -> Documents:
    """The chapters of the King James Bible, without the numbers of the verses.

    The file is a list of windows of 64 KB in the format of compress(1), whose three magic bytes are stored once.
    """
    packed = (root / "usr/lib/bible.data").read_bytes()
    (count,) = struct.unpack(">I", packed[88:92])
    starts = [*struct.unpack(f">{count + 1}I", packed[92 : 96 + 4 * count]), len(packed)]
    windows = [b"\x1f\x9d\x90" + packed[start:end] for start, end in itertools.pairwise(starts)]
    text = b"".join(
        subprocess.run(["gzip", "-dc"], input=window, check=True, stdout=subprocess.PIPE).stdout for window in windows
    ).decode()
    chapters: dict[str, list[str]] = {}
    for chapter, verse in re.findall(r"^(\d?[A-Z][a-z]*\d+):\d+ (.*)$", text, re.MULTILINE):
        chapters.setdefault(chapter, []).append(verse)
    for chapter, verses in chapters.items():
        yield chapter, "\n".join(verses)


def dictionary(root: Path) -> Documents:
    """The Collaborative International Dictionary of English, in pieces; a few of its bytes are not UTF-8."""
    packed = (root / "usr/share/dictd/gcide.dict.dz").read_bytes()
    yield from pieces("gcide", gzip.decompress(packed).decode(errors="replace"))


def metamath(root: Path) -> Documents:
    """Proofs in the language of Metamath, in pieces."""
    for path in (root / "usr/share/metamath/databases").glob("*.mm"):
        # The licence of this file is another one than that of the rest.
        if path.name != "peano.mm":
            yield from pieces(path.name, path.read_text(encoding="utf-8"))


def manual_pages(root: Path) -> Documents:
    """The source of manual pages, without comments: their licence headers repeat."""
    for path in (root / "usr/share/man").rglob("*.gz"):
        if not path.is_symlink():
            text = gzip.decompress(path.read_bytes()).decode()
            lines = [line for line in text.split("\n") if not line.startswith(('.\\"', "'\\\""))]
            yield path.relative_to(root / "usr/share/man").as_posix().removesuffix(".gz"), "\n".join(lines)


def perl_pods(root: Path) -> Documents:
    """The documentation of Perl, without the table of contents of all of it."""
    for path in (root / "usr/share/perl").rglob("*.pod"):
        if path.name != "perltoc.pod":
            yield path.name, path.read_text(encoding="utf-8")


def pieces(name: str, text: str) -> Documents:
    """Cut a text at blank lines into pieces of about 16,000 characters."""
    parts: list[str] = []
    length = number = 0
    for part in text.split("\n\n"):
        parts.append(part)
        length += len(part)
        if length >= PIECE_CHARS:
            yield f"{name}#{number:05d}", "\n\n".join(parts)
            parts, length, number = [], 0, number + 1
    if parts:
        yield f"{name}#{number:05d}", "\n\n".join(parts)


@dataclass(frozen=True)
class Corpus:
    """One domain.

    Args:
        package: Debian package; None for the standard library of this interpreter.
        license: SPDX expression of most of its files, as its copyright file says.
        documents: Yields path and text of the files of an unpacked package.
        tested: Version and sha256 of the package that was tested.
    """

    package: str | None
    license: str
    documents: Callable[[Path], Documents]
    tested: tuple[str, str] | None = None


CORPORA = {
    "code": Corpus(None, "PSF-2.0", stdlib_code),
    "bible": Corpus(
        "bible-kjv-text",
        "LicenseRef-public-domain",
        bible_chapters,
        ("4.38", "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a"),
    ),
    "dictionary": Corpus(
        "dict-gcide",
        "GPL-2.0-or-later",
        dictionary,
        ("0.48.5+nmu2", "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f"),
    ),
    "metamath": Corpus(
        "metamath-databases",
        "CC0-1.0",
        metamath,
        ("0.0.0~20210101.git55fe226-2", "c72523c221db6c1039fa909150f9c53fb9175809792f2e80e55e1baa965445a1"),
    ),
    "manpages": Corpus(
        "manpages",
        "GPL-2.0-or-later",
        manual_pages,
        ("6.03-2", "efa1ba4cd19ad7baeae959c9209a7eb74be2ebb858bcabb412597bfc9f588c91"),
    ),
    "manpages-de": Corpus(
        "manpages-de",
        "GPL-3.0-or-later",
        manual_pages,
        ("4.18.1-1", "37d2e7ee51f22952aecec3af93647ff59194a3c74bb7a694560f49c7f7ab3978"),
    ),
    "perl-doc": Corpus(
        "perl-doc",
        "Artistic-1.0-Perl OR GPL-1.0-or-later",
        perl_pods,
        ("5.36.0-7+deb12u3", "e9e3564ff5ade27de0585835f2acad769bcc545c0a0045a9f55d5401f27f7591"),
    ),
}


def corpora_folder() -> Path:
    """Where the files are: a cache outside the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hf_mixture" / "corpora"


def corpora(folder: Path | None = None) -> dict[str, str]:
    """The path of each domain.

    Raises:
        FileNotFoundError: They were not made yet; the message has the command.
    """
    folder = folder or corpora_folder()
    paths = {name: folder / f"{name}.jsonl" for name in CORPORA}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}; make the corpora with: {COMMAND}")
    return {name: str(path) for name, path in paths.items()}


def build(folder: Path, names: list[str], max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Download, unpack and write the domains; those that are there with the same limit are kept.

    Returns:
        The content of `corpora.json`.

    Raises:
        RuntimeError: apt or dpkg-deb failed, or a package of the tested version has another hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "corpora.json"
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    kept = known.get("domains", {}) if known.get("max_bytes") == max_bytes else {}
    content = {"format": FORMAT, "version": VERSION, "max_bytes": max_bytes, "domains": kept}
    for name in names:
        target = folder / f"{name}.jsonl"
        if name in kept and target.is_file() and _sha256(target) == kept[name]["sha256"]:
            continue
        corpus = CORPORA[name]
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            root, facts = _unpack(corpus, Path(scratch))
            kept[name] = {**facts, "license": corpus.license, **_write(target, corpus, root, name, max_bytes)}
        write_atomic(manifest, json.dumps(content, indent=2) + "\n")
    return content


def _unpack(corpus: Corpus, scratch: Path) -> tuple[Path, dict[str, Any]]:
    if corpus.package is None:
        return Path(sysconfig.get_path("stdlib")), {"package": None, "version": sys.version.split()[0]}
    # apt drops to another user that must be able to write here.
    scratch.chmod(0o755)
    _run(["apt-get", "download", corpus.package], scratch, hint="run apt-get update if the index is old or absent")
    (deb,) = scratch.glob("*.deb")
    version = _run(["dpkg-deb", "-f", deb.name, "Version"], scratch).strip()
    digest = _sha256(deb)
    if corpus.tested is not None and version == corpus.tested[0] and digest != corpus.tested[1]:
        raise RuntimeError(f"{deb.name} has sha256 {digest}, not {corpus.tested[1]}; use another mirror")
    _run(["dpkg-deb", "-x", deb.name, "root"], scratch)
    return scratch / "root", {"package": corpus.package, "version": version, "package_sha256": digest}


def _write(target: Path, corpus: Corpus, root: Path, name: str, max_bytes: int) -> dict[str, Any]:
    documents = sorted(corpus.documents(root), key=lambda item: hashlib.sha256(item[0].encode()).digest())
    seen, lines, total = Seen(), [], 0
    for path, text in tqdm(documents, desc=name, unit="file"):
        size = len(text.encode())
        if len(text) < MIN_CHARS or total + size > max_bytes or not seen.is_new(text):
            continue
        total += size
        lines.append(json.dumps({"text": text, "path": path, "license": corpus.license}, ensure_ascii=False))
    write_atomic(target, "\n".join(lines) + "\n")
    return {"documents": len(lines), "bytes": total, "sha256": _sha256(target)}


def _run(command: list[str], folder: Path, hint: str = "") -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}{f'; {hint}' if hint else ''}")
    return done.stdout


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=corpora_folder(), help="where to write (default: %(default)s)")
    parser.add_argument("--domains", nargs="+", choices=list(CORPORA), default=list(CORPORA), metavar="NAME")
    args = parser.parse_args()
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        print("error: apt-get and dpkg-deb are needed: run this on Debian or Ubuntu", file=sys.stderr)
        return 1
    for name, facts in build(args.folder, args.domains)["domains"].items():
        source = f"{facts['package']} {facts['version']}" if facts["package"] else f"Python {facts['version']}"
        print(f"{name:<12}{facts['documents']:>7,} documents{facts['bytes']:>11,} bytes  {facts['license']}, {source}")
    print(f"written to {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
