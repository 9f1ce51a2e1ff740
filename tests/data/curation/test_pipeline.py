"""The whole pipeline: every document accounted for, the same result in every way of running, and after kills."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from curation_data import RECIPE, draws, sources
from datasets import Dataset, IterableDataset
from slow_dedup import slow_verdicts

from hf_mixture import CuratedDataset, CurationRecipe, curate
from hf_mixture.data.curation.annotate import Annotator, Clock
from hf_mixture.data.curation.decontaminate import DecontaminationIndex
from hf_mixture.data.curation.dedup import REASONS
from hf_mixture.data.curation.reading import Reader


def given(rows: dict[str, list[dict[str, Any]]] | None = None) -> dict[str, Dataset]:
    return {name: Dataset.from_list(part) for name, part in (rows or sources()).items()}


def with_benchmark(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The recipe with a benchmark that some documents repeat."""
    items = [" ".join(row["text"].split()[:40]) for row in rows["open"][::29] if row["text"]]
    path = folder / "benchmark.jsonl"
    path.write_text("\n".join(json.dumps({"question": item}) for item in items), encoding="utf-8")
    benchmark = {"quiz": {"test": str(path), "columns": ["question"]}}
    return RECIPE | {"stages": {"decontamination": {"benchmarks": benchmark}}}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return with_benchmark(tmp_path_factory.mktemp("benchmark"), sources())


@pytest.fixture(scope="module")
def curated(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> CuratedDataset:
    return curate(given(), recipe, output_dir=tmp_path_factory.mktemp("run") / "out")


def slow_reasons(recipe: CurationRecipe, rows: dict[str, list[dict[str, Any]]]) -> Counter[tuple[str, str]]:
    """The reason of every document, with all documents in memory and every stage after the other."""
    annotator, found = Annotator(recipe), Counter[tuple[str, str]]()
    alive = {}
    for source, part in rows.items():
        read = Reader(columns=recipe.sources[source].columns)
        for raw in (read(row) for row in part):
            added, _ = annotator.document(source, raw._asdict(), Clock())
            if added["reason"] is None:
                # Equal rows have equal ids; each of them is an entry of its own here.
                alive[source, f"{raw.id}\0{len(alive)}", added.get("text", raw.text)] = raw.id
            else:
                found[source, added["reason"]] += 1
    options = recipe.stages.decontamination
    assert options is not None
    place = options.benchmarks["quiz"].test
    items = [json.loads(line)["question"] for line in Path(place).read_text().splitlines()]
    index = DecontaminationIndex.build({"quiz": (items, [])})
    for row, code in slow_verdicts(list(alive), recipe.stages.dedup).items():
        if code in REASONS:
            found[row[0], f"dedup/{REASONS[code]}"] += 1
        elif index.scan(row[2]).flagged:
            found[row[0], "decontamination/repeats_benchmark"] += 1
        else:
            found[row[0], "kept"] += 1
    return found


def test_every_document_has_the_reason_that_the_slow_pipeline_gives(
    curated: CuratedDataset, recipe: dict[str, Any]
) -> None:
    counted = Counter[tuple[str, str]]()
    for source, facts in curated.report["sources"].items():
        counted[source, "kept"] = facts["kept"]
        counted.update({(source, reason): number for reason, number in facts["rejected"].items()})
    assert counted == slow_reasons(CurationRecipe.from_dict(recipe), sources())
    assert len({reason.partition("/")[0] for _, reason in counted}) >= 6


def test_check_3_conservation_by_source(curated: CuratedDataset) -> None:
    rows = sources()
    kept = curated.load(curated.configurations[-1])
    rejected = curated.rejected()
    assert set(kept["decision"]) == {"keep"}
    assert set(rejected["decision"]) == {"reject"}
    for source, part in rows.items():
        facts = curated.report["sources"][source]
        reasons = Counter(r for r, name in zip(rejected["reason"], rejected["source"], strict=True) if name == source)
        assert facts["read"] == len(part) == facts["kept"] + sum(facts["rejected"].values())
        assert dict(reasons) == facts["rejected"]
        assert facts["kept"] == Counter(kept["source"])[source]
        assert None not in reasons
    # Not one text is lost: personal data apart, what was read is what was kept and rejected.
    read = Counter(row["text"] for part in rows.values() for row in part)
    written = Counter(text.replace("[EMAIL]", "ann.lee@lake.org") for text in [*kept["text"], *rejected["text"]])
    assert written == read


@pytest.mark.parametrize("num_proc", [2, 4])
def test_check_3_the_digest_does_not_depend_on_the_number_of_processes(
    num_proc: int, curated: CuratedDataset, recipe: dict[str, Any], tmp_path: Path
) -> None:
    again = curate(given(), recipe, output_dir=tmp_path / "out", num_proc=num_proc)
    assert again.report == curated.report


def test_check_3_the_digest_does_not_depend_on_the_order_and_size_of_shards(
    curated: CuratedDataset, recipe: dict[str, Any], tmp_path: Path
) -> None:
    rows = sources()
    for part in rows.values():
        draws(5).shuffle(part)
    again = curate(
        given(dict(reversed(rows.items()))), recipe | {"shard_rows": 33}, output_dir=tmp_path / "out", num_proc=2
    )
    assert again.report == curated.report


def test_streams_give_the_same_as_data_sets_in_memory(
    curated: CuratedDataset, recipe: dict[str, Any], tmp_path: Path
) -> None:
    rows = sources()
    streams = {
        "open": IterableDataset.from_generator(lambda: iter(rows["open"])),
        "made": Dataset.from_list(rows["made"]).to_iterable_dataset(num_shards=3),
    }
    assert curate(streams, recipe, output_dir=tmp_path / "out").report == curated.report


def test_a_finished_run_is_resumed_at_once_and_another_recipe_is_refused(
    curated: CuratedDataset, recipe: dict[str, Any]
) -> None:
    assert curate(given(), recipe, output_dir=curated.folder, resume=True).report == curated.report
    with pytest.raises(ValueError, match="holds a curation by this recipe; resume it"):
        curate(given(), recipe, output_dir=curated.folder)
    with pytest.raises(ValueError, match="differs in seed"):
        curate(given(), recipe | {"seed": 1}, output_dir=curated.folder, resume=True)
    with pytest.raises(ValueError, match="is not the folder of a curation"):
        curate(given(), recipe, output_dir=curated.folder / "dataset")


def test_a_run_that_is_stopped_between_parts_goes_on_where_it_was(
    curated: CuratedDataset, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_mixture.data.curation.journal import Journal

    finish = Journal.finish
    parts: list[str] = []

    def stop(journal: Journal, part: str, facts: Any) -> None:
        parts.append(part)
        if len(parts) % 7 == 0:
            raise KeyboardInterrupt  # the work of the part is done, its line is not written
        finish(journal, part, facts)

    monkeypatch.setattr(Journal, "finish", stop)
    for _ in range(50):
        try:
            again = curate(given(), recipe, output_dir=tmp_path / "out", resume=True)
            break
        except KeyboardInterrupt:
            continue
    assert again.report == curated.report
    assert 1 < Counter(parts).most_common(1)[0][1] < 4


@pytest.mark.parametrize("kind", ["in memory", "stream"])
def test_a_source_that_changed_while_a_run_rested_is_refused(
    kind: str, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_mixture.data.curation.journal import Journal

    finish = Journal.finish

    def stop(journal: Journal, part: str, facts: Any) -> None:
        finish(journal, part, facts)
        if part == "raw/open/0":
            raise KeyboardInterrupt

    def data(rows: dict[str, list[dict[str, Any]]]) -> Any:
        return given(rows) if kind == "in memory" else {n: d.to_iterable_dataset() for n, d in given(rows).items()}

    rows, recipe = sources(), recipe | {"shard_rows": 20}
    monkeypatch.setattr(Journal, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        curate(data(rows), recipe, output_dir=tmp_path / "out")
    monkeypatch.setattr(Journal, "finish", finish)
    changed = {name: part[1:] if name == "open" else part for name, part in rows.items()}
    with pytest.raises(ValueError, match=r"source 'open' has changed since .* its row 19 is another one"):
        curate(data(changed), recipe, output_dir=tmp_path / "out", resume=True)
    assert curate(data(rows), recipe, output_dir=tmp_path / "out", resume=True).report["sources"]["open"]["read"]


@pytest.mark.slow
def test_kills_at_ten_random_moments_change_nothing(tmp_path: Path) -> None:
    rows = sources(3000)
    recipe = with_benchmark(tmp_path, rows)
    data = given(rows)
    began = time.monotonic()
    whole = curate(data, recipe, output_dir=tmp_path / "whole", num_proc=2)
    seconds = time.monotonic() - began
    rng, killed = draws(0), 0
    for _ in range(10):
        child = os.fork()
        if child == 0:
            os.setsid()
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 2)
            curate(data, recipe, output_dir=tmp_path / "out", num_proc=2, resume=True)
            os._exit(0)
        time.sleep(rng.uniform(0.01, 0.25) * seconds)
        done, _ = os.waitpid(child, os.WNOHANG)
        if not done:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
    assert killed >= 5, "most runs ended before they could be killed"
    again = curate(data, recipe, output_dir=tmp_path / "out", num_proc=2, resume=True)
    assert again.report == whole.report
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_the_work_folder_is_gone_in_the_end_and_throughput_is_reported(curated: CuratedDataset) -> None:
    assert not (curated.folder / "work").exists()
    throughput = json.loads((curated.folder / "throughput.json").read_text(encoding="utf-8"))
    stages = ["inclusion", "tier", "safety", "language", "quality", "pii", "dedup", "decontamination"]
    assert set(stages) <= set(throughput)
    assert all(throughput[stage]["documents"] > 0 for stage in stages)
