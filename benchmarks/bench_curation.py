"""Curating 100,000 real documents with all default stages and decontamination, on two processes.

Documents are pieces of about 1500 characters of the book, speeches and mail of `curation_corpora.py` and of the
documentation and source code of the installed packages. datatrove's filters of the same stages
need spaCy or a model that is downloaded, except the formatter of personal data, which is timed here beside our stage,
on the same documents.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from common import compare, print_table, summarise, time_interleaved, write
from datasets import Dataset, Features, Value

from hf_mixture import curate, installed_packages
from hf_mixture.data.curation.pii import Pii, PiiOptions


NUM_DOCUMENTS, CHARS, NUM_PROC, ROUNDS = 100_000, 1500, 2, 6
SOURCES: dict[str, dict[str, Any]] = {
    "docs": {"columns": {"text": "text", "license": "license"}, "facts": {"file_level_provenance": True}},
    "python": {"columns": {"text": "text", "license": "license"}, "skip": ["language", "quality"]},
    "headers": {"columns": {"text": "text", "license": "license"}, "skip": ["language", "quality"]},
    "book": {"facts": {"license": "CC0-1.0", "file_level_provenance": True}},
    "speeches": {"facts": {"government": True}},
    "mail": {"facts": {"card_license": "PDDL-1.0"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), help="folder of curation_corpora.py")
    parser.add_argument("--documents", type=int, default=NUM_DOCUMENTS, help="default: %(default)s")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args.corpora, args.documents)


def measure(folder: Path, corpora: Path, number: int) -> None:
    data = load(folder, corpora, number)
    benchmark = folder / "benchmark.jsonl"
    items = data["book"]["text"][:200] + data["mail"]["text"][:300]
    benchmark.write_text("".join(json.dumps({"text": item}) + "\n" for item in items), encoding="utf-8")
    stages = {"decontamination": {"benchmarks": {"items": {"test": str(benchmark)}}}}
    recipe = {"format": "hf_mixture_curation", "version": 1, "name": "bench", "sources": SOURCES, "stages": stages}
    wall, cpu = time.perf_counter(), cpu_seconds()
    with peak_memory() as peak:
        curated = curate(data, recipe, output_dir=folder / "out", num_proc=NUM_PROC)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    read = sum(facts["read"] for facts in curated.report["sources"].values())
    chars = sum(sum(map(len, part["text"])) for part in data.values())
    throughput = json.loads((curated.folder / "throughput.json").read_text(encoding="utf-8"))
    formatters = time_pii([text for part in data.values() for text in part["text"][:400]])
    result = {
        "setting": {"documents": read, "mean characters": round(chars / read), "processes": NUM_PROC},
        "documents_per_second": read / wall,
        "documents_per_cpu_second": read / cpu,
        "cpu_seconds_per_document": cpu / read,
        "peak_bytes": {"parent": peaks[0], "largest_worker": peaks[1], "all_processes": peak[0]},
        "load_average": os.getloadavg(),
        "stages": throughput,
        "sources": curated.report["sources"],
        "pii": formatters,
    }
    print_table(
        ["stage", "documents", "documents per processor second"],
        [[name, facts["documents"], f"{facts['documents_per_cpu_second']:.0f}"] for name, facts in throughput.items()],
    )
    print(
        f"{read / wall:.0f} documents per second, {read / cpu:.0f} per processor second, "
        f"peaks {[size >> 20 for size in (*peaks, *peak)]} MiB"
    )
    write("curation", result)


def load(folder: Path, corpora: Path, number: int) -> dict[str, Dataset]:
    """The documents of each source, on disk; those of the packages make up the number."""
    found = {}
    left = number
    for name in ("book", "speeches", "mail"):
        path = corpora / f"{name}.jsonl"
        if not path.is_file():
            raise SystemExit(
                f"{path} is missing; make it with: python benchmarks/curation_corpora.py --folder {corpora}"
            )
        found[name] = stored(folder, name, lambda path=path: pieces_of_lines(path), left)
        left -= len(found[name])
    # The documentation is less than a half; what it lacks is source code.
    for name in ("docs", "python", "headers"):
        rows = installed_packages([name], max_bytes=150_000_000)["train"]
        found[name] = stored(
            folder, name, lambda rows=rows: pieces_of_rows(rows), left // 2 if name == "docs" else left
        )
        left -= len(found[name])
    return {name: found[name] for name in SOURCES}


def stored(folder: Path, name: str, rows: Callable[[], Iterator[dict[str, str]]], number: int) -> Dataset:
    def first() -> Iterator[dict[str, str]]:
        for _, row in zip(range(number), rows(), strict=False):
            yield row

    features = Features({"text": Value("string"), "license": Value("string")})
    return Dataset.from_generator(
        first, features=features, cache_dir=str(folder / "cache"), fingerprint=f"bench{name}"
    )


def pieces_of_lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield from pieces(json.loads(line)["text"], "")


def pieces_of_rows(rows: Dataset) -> Iterator[dict[str, str]]:
    for row in rows:
        yield from pieces(row["text"], row["license"])


def pieces(text: str, license: str) -> Iterator[dict[str, str]]:
    """Cut a text at line ends, or at blanks where a line is long."""
    start = 0
    while len(text) - start > 2 * CHARS:
        end = text.find("\n", start + CHARS, start + 2 * CHARS)
        if end < 0:
            end = text.find(" ", start + CHARS, start + 2 * CHARS)
        end = start + CHARS if end < 0 else end
        yield {"text": text[start:end], "license": license}
        start = end + 1
    yield {"text": text[start:], "license": license}


def time_pii(texts: list[str]) -> dict[str, Any]:
    """Processor time of our stage and of datatrove's formatter over the same documents."""
    if importlib.util.find_spec("datatrove") is None:
        print("datatrove is not installed, so its formatter of personal data is not timed")
        return {}
    from datatrove.pipeline.formatters import PIIFormatter

    ours, theirs = Pii(PiiOptions()), PIIFormatter()

    def run_ours() -> None:
        for text in texts:
            ours({"text": text})

    def run_theirs() -> None:
        for text in texts:
            theirs.format(text)

    names = ("pii (six kinds, with spans)", "datatrove PIIFormatter (two kinds)")
    times = time_interleaved(dict(zip(names, (run_ours, run_theirs), strict=True)), rounds=ROUNDS, warmup=1)
    rates = {name: summarise([len(texts) / second for second in samples]) for name, samples in times.cpu.items()}
    return {"documents_per_cpu_second": rates, "ratio": compare(times.cpu, names[1])}


@contextmanager
def peak_memory(interval: float = 0.1) -> Iterator[list[int]]:
    """Largest memory of this process and its children together, in bytes; pages that they share count once."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(interval):
            peak[0] = max(peak[0], sum(map(proportional_bytes, processes())))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield peak
    ended.set()
    thread.join()


def processes() -> list[int]:
    """This process and all that descend from it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def proportional_bytes(process: int) -> int:
    """Memory of a process, where a page of several counts in parts; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu_seconds() -> float:
    """Processor time of this process and of the workers that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
