"""Class means, scorers, ranking, stability and the file of maps, against sums over prompts written out.

P prompts, N experts of all routers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.ranking import bootstrap_stability, rank_experts
from hf_mixture.moe.mote.resonance_file import FILE_NAME, read
from hf_mixture.moe.mote.resonance_maps import FtriMaps, ModelFacts, maps_from_routed_experts
from hf_mixture.moe.mote.scorers import npmi, risk_difference, saliency
from hf_mixture.moe.trace.trace import TracedRouter


ROUTERS = (
    TracedRouter("model.layers.1.mlp.gate", 1, 0, 5, 2),
    TracedRouter("model.layers.3.mlp.gate", 3, 1, 3, 2),
)
FACTS = ModelFacts(ROUTERS, "qwen3_moe", "sha256:0", "base", "mwq")


def drawn(num_prompts: int = 12, seed: int = 0) -> tuple[FtriMaps, list[str]]:
    """Each token of each prompt is sent to 2 experts of each router; the last expert of router 0 gets none."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 9, num_prompts)
    counts = np.zeros((num_prompts, 8), dtype=np.int64)
    for prompt, length in enumerate(tokens):
        for _ in range(length):
            counts[prompt, rng.choice(4, 2, replace=False)] += 1
            counts[prompt, 5 + rng.choice(3, 2, replace=False)] += 1
    labels = [("yes", "no", "other")[place % 3] for place in range(num_prompts)]
    return FtriMaps(facts=FACTS, counts=counts, tokens=tokens), labels


@pytest.mark.parametrize("normalise", [True, False])
def test_differential_map_is_the_difference_of_means(normalise: bool) -> None:
    maps, labels = drawn()
    summary = maps.summarise(labels, normalise=normalise)
    assert summary.classes == ("no", "other", "yes")
    for target in summary.classes:
        for expert in range(8):
            sides: dict[bool, list[float]] = {True: [], False: []}
            for prompt, label in enumerate(labels):
                length = maps.tokens[prompt] if normalise else 1
                sides[label == target].append(maps.counts[prompt, expert] / length)
            expected = sum(sides[True]) / len(sides[True]) - sum(sides[False]) / len(sides[False])
            assert summary.differential(target)[expert] == pytest.approx(expected, abs=1e-12)


def test_risk_difference_and_its_sums() -> None:
    maps, labels = drawn()
    summary = maps.summarise(labels)
    scores = risk_difference(summary, "yes")
    for expert in range(8):
        a = [sum(maps.counts[p, expert] for p in range(12) if (labels[p] == "yes") is side) for side in (True, False)]
        t = [sum(maps.tokens[p] for p in range(12) if (labels[p] == "yes") is side) for side in (True, False)]
        d = [t[0] - a[0], t[1] - a[1]]
        assert scores[expert] == pytest.approx(a[0] / (a[0] + d[0]) - a[1] / (a[1] + d[1]), abs=1e-12)
    place = summary.place("yes")
    for router, part in zip(ROUTERS, FACTS.split(summary.counts[place]), strict=True):
        assert (part / summary.num_tokens[place]).sum() == pytest.approx(router.top_k, abs=1e-12)


def test_npmi_runs_from_never_to_alone() -> None:
    facts = ModelFacts((TracedRouter("gate", 0, 0, 4, 1),))
    counts = np.array([[4, 2, 0, 0], [6, 0, 0, 0], [0, 2, 4, 0], [0, 2, 4, 0]])
    maps = FtriMaps(facts=facts, counts=counts, tokens=np.full(4, 6))
    scores = npmi(maps.summarise(["yes", "yes", "no", "no"]), "yes")
    joint, chosen, share = 2 / 24, 6 / 24, 12 / 24
    expected = math.log(joint / (chosen * share)) / -math.log(joint)
    assert scores == pytest.approx([math.log(2) / -math.log(10 / 24), expected, -1.0, 0.0])
    alone = FtriMaps(facts=facts, counts=np.array([[6, 0, 0, 0]] * 2 + [[0, 6, 0, 0]] * 2), tokens=np.full(4, 6))
    assert npmi(alone.summarise(["yes", "yes", "no", "no"]), "yes")[0] == pytest.approx(1.0)


def test_saliency_is_a_mean_over_routed_tokens() -> None:
    maps, labels = drawn()
    values = maps.counts * np.arange(1.0, 9.0)
    normed = FtriMaps(facts=FACTS, counts=maps.counts, tokens=maps.tokens, values=values, statistic="norm")
    scores = saliency(normed.summarise(labels, normalise=False), "no")
    assert scores == pytest.approx([1.0, 2.0, 3.0, 4.0, 0.0, 6.0, 7.0, 8.0])
    with pytest.raises(ValueError, match=r"statistic='norm'\) and summarise\(normalise=False\)"):
        saliency(normed.summarise(labels), "no")
    with pytest.raises(ValueError, match="statistic='count'"):
        rank_experts(maps.summarise(labels), "no", scorer="saliency")


def test_ranking_is_global_and_its_ties_are_ordered() -> None:
    facts = ModelFacts((TracedRouter("a", 0, 0, 3, 1), TracedRouter("b", 2, 1, 3, 1)))
    counts = np.array([[4, 0, 0, 0, 4, 0]] * 2 + [[0, 0, 4, 2, 2, 0]] * 2)
    summary = FtriMaps(facts=facts, counts=counts, tokens=np.full(4, 4)).summarise(["yes", "yes", "no", "no"])

    def order(**options: str) -> list[tuple[int | None, int, float]]:
        return [(e.layer, e.expert, e.score) for e in rank_experts(summary, "yes", **options)]

    # Experts 1 of layer 0 and 2 of layer 2 were never chosen: behind all that were, whatever their sign.
    never = [(0, 1, 0.0), (2, 2, 0.0)]
    assert order() == [(0, 0, 1.0), (2, 1, 0.5), (2, 0, -0.5), (0, 2, -1.0), *never]
    assert order(direction="negative") == [(0, 2, -1.0), (2, 0, -0.5), (2, 1, 0.5), (0, 0, 1.0), *never]
    assert order(direction="absolute") == [(0, 0, 1.0), (0, 2, -1.0), (2, 0, -0.5), (2, 1, 0.5), *never]
    assert order(scorer="risk_difference") == order()
    edits = ExpertEdits.from_ranking(rank_experts(summary, "yes"), top=2)
    assert [(edit.module, edit.layer, edit.expert, edit.op) for edit in edits.edits] == [
        ("a", 0, 0, "off"),
        ("b", 2, 1, "off"),
    ]


def test_stability_redraws_prompts_of_each_class() -> None:
    maps, labels = drawn(30)
    found = bootstrap_stability(maps, labels, "yes", top=2, num_draws=300, seed=3)
    assert found.shares.sum() == pytest.approx(2)
    # The same draws, prompt by prompt.
    rng = np.random.default_rng(3)
    rates = maps.counts / maps.tokens[:, None]
    sides = [[p for p in range(30) if labels[p] == name] for name in ("no", "other", "yes")]
    shares, overlap = np.zeros(8), 0
    whole = [ROUTERS.index(r) * 5 + e for r, e in _first_of(maps, labels)]
    for start in (0, 128, 256):
        size = min(128, 300 - start)
        draws = [rng.multinomial(len(side), np.full(len(side), 1 / len(side)), size=size) for side in sides]
        for number in range(size):
            picked = [np.repeat(side, draw[number]) for side, draw in zip(sides, draws, strict=True)]
            score = rates[picked[2]].mean(axis=0) - rates[np.concatenate(picked[:2])].mean(axis=0)
            first = sorted(range(8), key=lambda place: (-round(score[place], 12), place))[:2]
            shares[first] += 1
            overlap += len(set(first) & set(whole))
    np.testing.assert_allclose(found.shares, shares / 300, atol=1e-12)
    assert found.overlap == pytest.approx(overlap / 600)
    with pytest.raises(ValueError, match="top=9 must be from 1 to 8"):
        bootstrap_stability(maps, labels, "yes", top=9)
    with pytest.raises(ValueError, match="num_draws=0 must be >= 1"):
        bootstrap_stability(maps, labels, "yes", top=2, num_draws=0)


def _first_of(maps: FtriMaps, labels: list[str]) -> list[tuple[TracedRouter, int]]:
    ranked = rank_experts(maps.summarise(labels), "yes")[:2]
    return [(ROUTERS[expert.ordinal], expert.expert) for expert in ranked]


def test_maps_survive_the_disk(tmp_path: Path) -> None:
    maps, labels = drawn()
    summary = maps.summarise(labels, provenance={"dataset": "none", "revision": "1"})
    assert summary.save(tmp_path / "new") == str(tmp_path / "new" / FILE_NAME)
    loaded = read(tmp_path / "new")
    for name in ("means", "counts", "num_prompts", "num_tokens"):
        assert np.array_equal(getattr(loaded, name), getattr(summary, name)), name
    for name in ("facts", "classes", "statistic", "positions", "normalise", "provenance"):
        assert getattr(loaded, name) == getattr(summary, name), name
    assert rank_experts(loaded, "yes") == rank_experts(summary, "yes")
    tensors = load_file(tmp_path / "new" / FILE_NAME)
    assert tensors["mean.yes"].shape == (2, 5)
    assert np.isnan(tensors["mean.yes"][1, 3:]).all()
    assert tensors["counts.yes"].dtype == np.int64


def test_damaged_maps_are_refused(tmp_path: Path) -> None:
    maps, labels = drawn()
    path = Path(maps.summarise(labels).save(tmp_path))
    whole, tensors = path.read_bytes(), load_file(path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["hf_mixture"])

    def refuses(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read(path)

    path.write_bytes(whole[: len(whole) // 2])
    refuses("is truncated or damaged")
    save_file(tensors, path)
    refuses("holds no maps of experts")
    save_file(tensors, path, metadata={"hf_mixture": json.dumps(header | {"version": 2})})
    refuses("has version 2 of the format, and version 1 is read here")
    save_file({k: v for k, v in tensors.items() if k != "mean.no"}, path, metadata={"hf_mixture": json.dumps(header)})
    refuses("is incomplete .*mean.no")
    save_file(tensors | {"counts.no": tensors["counts.no"][:1]}, path, metadata={"hf_mixture": json.dumps(header)})
    refuses(r"counts.no has the shape \[1, 5\], and the routers that the file names have \[2, 5\]")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*ftri\.safetensors; `hf-mixture mote scan` writes it"):
        read(tmp_path)
    with pytest.raises(ValueError, match="provenance is not plain JSON"):
        maps.summarise(labels, provenance={"rate": math.nan}).save(tmp_path)


def test_labels_that_say_nothing_are_refused() -> None:
    maps, labels = drawn()
    for wrong, message in (
        (labels[:-1], "there are 11 labels for 12 prompts"),
        (["yes"] * 12, "all prompts have the label 'yes'; at least two classes"),
        (["yes"] * 11 + ["no"], "class 'no' has one prompt; at least 2 are needed"),
    ):
        with pytest.raises(ValueError, match=message):
            maps.summarise(wrong)
    empty = FtriMaps(facts=FACTS, counts=maps.counts, tokens=np.where(np.arange(12) == 4, 0, maps.tokens))
    with pytest.raises(ValueError, match="no token of prompt 4 was counted"):
        empty.summarise(labels)
    with pytest.raises(ValueError, match="target='maybe' is no class of these maps; they have no, other, yes"):
        maps.summarise(labels).differential("maybe")
    for options, message in (({"scorer": "D"}, "scorer='D' must be one of"), ({"direction": "up"}, "direction='up'")):
        with pytest.raises(ValueError, match=message):
            rank_experts(maps.summarise(labels), "yes", **options)


def test_experts_that_a_server_returned_are_counted_by_model_layer() -> None:
    # Layers 0 and 2 are dense: their rows are placeholders.
    routed = [np.array([[[0, 0], [4, 1], [0, 0], [2, 0]], [[0, 0], [4, 3], [0, 0], [1, 0]]])]
    maps = maps_from_routed_experts(routed, FACTS)
    assert maps.counts.tolist() == [[0, 1, 0, 1, 2, 2, 1, 1]]
    assert maps.tokens.tolist() == [2]
    with pytest.raises(ValueError, match=r"routed\[0\] has the shape \[2, 3, 2\]; it must be \[tokens, layers, 2\]"):
        maps_from_routed_experts([routed[0][:, :3]], FACTS)
    with pytest.raises(ValueError, match=r"routed\[0\] has the expert 5 in layer 1, which has 5"):
        maps_from_routed_experts([routed[0] + (routed[0] == 4)], FACTS)
