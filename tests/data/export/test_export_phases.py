"""Megatron and nanotron: weights of fixed-length samples, one list or stage for each segment of a schedule."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import yaml

from hf_mixture.data import Mixture, Source
from hf_mixture.data.export import ExportResult, export_mixture


START = {"wiki": 0.1 + 0.2, "code": 1 / 3, "books": 1 - 0.3 - 1 / 3}
MIDDLE = {"wiki": 0.5, "code": 0.5, "books": 0.0}
END = {"wiki": 0.0, "code": 0.125, "books": 0.875}
PATHS = {"wiki": "/data/wiki_text_document", "code": "/data/code_text_document", "books": "/data/books_text_document"}
SIZES: dict[str, Any] = {"sequence_length": 1024, "global_batch_size": 32}
STEP = 1024 * 32


def scheduled(unit: str = "tokens", schedule_unit: str = "tokens", starts: tuple[float, ...] = (0, 0, 0)) -> Mixture:
    segments = list(zip(starts, (START, MIDDLE, END), strict=True))
    return Mixture(START, unit=unit, schedule=segments, schedule_unit=schedule_unit)  # type: ignore[arg-type]


def parse_blend(words: list[str]) -> dict[str, float] | None:
    """The rule of Megatron: an even list whose first, third ... word is a number holds weights and prefixes."""

    def is_number(word: str) -> bool:
        try:
            float(word)
        except ValueError:
            return False
        return True

    if len(words) % 2 or not all(map(is_number, words[::2])):
        return None
    weights = {prefix.strip(): float(weight) for weight, prefix in zip(words[::2], words[1::2], strict=True)}
    assert all(weight > 0 for weight in weights.values())
    return weights


def blends_of(result: ExportResult, suffix: str = "") -> list[dict[str, float] | None]:
    option, *words = shlex.split(result.files[f"data_path{suffix}.txt"])
    assert option == "--data-path"
    splits = json.loads(result.files[f"per_split_data_args{suffix}.json"])
    assert set(splits) == {"train", "valid", "test"}
    return [
        parse_blend(words),
        parse_blend(result.files[f"data_args{suffix}.txt"].split()),
        parse_blend(splits["train"]),
    ]


def test_megatron_reads_the_same_prefixes_and_weights() -> None:
    result = export_mixture(Mixture(START, unit="tokens"), "megatron", paths=PATHS, valid=["/data/valid"])
    assert result.losses == ()
    for blend in blends_of(result):
        assert blend == {PATHS[name]: weight for name, weight in START.items()}
    splits = json.loads(result.files["per_split_data_args.json"])
    assert (splits["valid"], splits["test"]) == (["/data/valid"], None)
    one = export_mixture(Mixture({"a": 1.0}, unit="tokens"), "megatron", paths={"a": "odd"})
    assert blends_of(one)[0] == {"odd": 1.0}


def test_megatron_drops_sources_of_weight_0_and_says_so() -> None:
    result = export_mixture(Mixture(MIDDLE, unit="tokens"), "megatron", paths=PATHS, accept_losses=True)
    assert result.losses == ("source 'books': weight 0 is not allowed, so it is dropped",)
    assert blends_of(result)[0] == {PATHS["wiki"]: 0.5, PATHS["code"]: 0.5}


def test_megatron_restarts_with_the_next_list_at_each_transition() -> None:
    mixture = scheduled(starts=(0, 500 * STEP, 800 * STEP))
    result = export_mixture(mixture, "megatron", paths=PATHS, accept_losses=True, **SIZES)
    assert result.files["phase_transition_iterations.txt"] == "--phase-transition-iterations 500,800\n"
    for i, weights in enumerate((START, MIDDLE, END)):
        expected = {PATHS[name]: weight for name, weight in weights.items() if weight > 0}
        assert blends_of(result, f"_{i}") == [expected] * 3
    assert sorted(name for name in result.files if name.startswith("data_args")) == [
        "data_args_0.txt",
        "data_args_1.txt",
        "data_args_2.txt",
    ]
    assert result.losses == (
        "source 'books': weight 0 in segment 1 is not allowed, so it is dropped",
        "source 'wiki': weight 0 in segment 2 is not allowed, so it is dropped",
    )


def test_nanotron_has_one_stage_for_each_segment() -> None:
    segments = [(0, START), (500 * STEP, {"wiki": 0.5, "code": 0.25, "books": 0.25}), (800 * STEP, dict(START))]
    mixture = Mixture(START, unit="tokens", schedule=segments, schedule_unit="tokens", seed=2**32 + 7)
    result = export_mixture(mixture, "nanotron", paths=PATHS, **SIZES)
    assert result.losses == ()
    stages = yaml.safe_load(result.files["data_stages.yaml"])["data_stages"]
    assert [stage["start_training_step"] for stage in stages] == [1, 501, 801]
    assert len({stage["name"] for stage in stages}) == 3
    for stage, (_, weights) in zip(stages, segments, strict=True):
        dataset = stage["data"]["dataset"]
        assert dataset["dataset_folder"] == list(PATHS.values())
        assert dataset["dataset_weights"] == pytest.approx(list(weights.values()), abs=1e-12)
        assert stage["data"]["seed"] == 7
    assert any("written as 7" in note for note in result.notes)


def test_nanotron_drops_sources_of_weight_0_in_their_stage_only() -> None:
    mixture = scheduled(starts=(0, 500 * STEP, 800 * STEP))
    result = export_mixture(mixture, "nanotron", paths=PATHS, accept_losses=True, **SIZES)
    stages = yaml.safe_load(result.files["data_stages.yaml"])["data_stages"]
    assert [len(stage["data"]["dataset"]["dataset_folder"]) for stage in stages] == [3, 2, 2]
    assert [loss for loss in result.losses if "'books'" in loss and "segment 1" in loss]


@pytest.mark.parametrize("target", ["megatron", "nanotron"])
def test_where_segments_begin(target: str) -> None:
    def starts(mixture: Mixture, **options: Any) -> tuple[list[int], list[str]]:
        result = export_mixture(mixture, target, paths="{name}", accept_losses=True, **options)
        notes = [note for note in result.notes if note.startswith("segment")]
        if target == "nanotron":
            stages = yaml.safe_load(result.files["data_stages.yaml"])["data_stages"]
            return [stage["start_training_step"] - 1 for stage in stages][1:], notes
        words = result.files["phase_transition_iterations.txt"].split()[1]
        return [int(word) for word in words.split(",")], notes

    assert starts(scheduled(schedule_unit="fraction", starts=(0, 0.5, 0.75)), train_iterations=1000) == (
        [500, 750],
        [],
    )
    # An example is a sample when its mean length is the length of a sample.
    blocks = scheduled(schedule_unit="examples", starts=(0, 3200, 6400))
    assert starts(blocks, mean_lengths={"tokens": 1024}, **SIZES) == ([100, 200], [])
    # Examples of 512 tokens fill half as many samples.
    assert starts(blocks, mean_lengths={"tokens": 512}, **SIZES) == ([50, 100], [])
    assert starts(scheduled(starts=(0, 10.0 * STEP + 9, 20 * STEP)), **SIZES) == (
        [10, 20],
        ["segment 1 begins at iteration 10, rounded from 10.0003"],
    )
    with pytest.raises(ValueError, match="train_iterations"):
        starts(scheduled(schedule_unit="fraction", starts=(0, 0.5, 0.75)))
    with pytest.raises(ValueError, match="sequence_length and global_batch_size"):
        starts(scheduled(starts=(0, 1, 2)))
    with pytest.raises(ValueError, match="mean number of tokens"):
        starts(blocks, **SIZES)
    with pytest.raises(ValueError, match="both begin at iteration 0"):
        starts(scheduled(starts=(0, 1, 2)), **SIZES)


@pytest.mark.parametrize("target", ["megatron", "nanotron"])
def test_a_line_is_written_as_its_mean_and_named(target: str) -> None:
    mixture = Mixture(
        {"a": 1.0, "b": 0.0},
        unit="tokens",
        schedule=[(0, (1, 0), "linear"), (0.5, (0.5, 0.5))],
        schedule_unit="fraction",
    )
    result = export_mixture(mixture, target, paths="{name}", train_iterations=10, accept_losses=True)
    assert result.losses == ("segment 0 of the schedule: its linear change is written as its mean weights",)
    if target == "megatron":
        assert blends_of(result, "_0")[0] == {"a": 0.75, "b": 0.25}


def test_prepared_files_stand_for_the_sources() -> None:
    sources = {"a": Source("user/a", revision="0" * 40)}
    result = export_mixture(Mixture({"a": 1.0}, unit="tokens", sources=sources), "megatron", paths="{name}")
    assert any("stands for the path" in note and "['a']" in note for note in result.notes)
