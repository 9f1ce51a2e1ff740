from __future__ import annotations

import math
import shutil
import sys
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import hf_mixture.metrics
from hf_mixture.metrics import METRICS, load_metric


def slow_gini(counts: list[int]) -> float:
    """Mean absolute difference of all pairs over twice the mean."""
    n = len(counts)
    return sum(abs(a - b) for a in counts for b in counts) / (2 * n * sum(counts))


def test_gini_closed_forms() -> None:
    metric = load_metric("moe_load")
    n = 20
    zipf = [math.lcm(*range(1, n + 1)) // rank for rank in range(1, n + 1)]
    harmonic = sum(1 / rank for rank in range(1, n + 1))
    sum_of_squares = n * (n + 1) * (2 * n + 1) / 6
    cases = {
        "uniform": ([7] * n, 0.0),
        "one expert": ([0] * (n - 1) + [9], (n - 1) / n),
        "half dead": ([5, 0] * (n // 2), 0.5),
        "linear": (list(range(1, n + 1)), (n - 1) / (3 * n)),
        # The sum of i * i^2 is (n (n + 1) / 2)^2.
        "squares": ([i**2 for i in range(1, n + 1)], (n * (n + 1)) ** 2 / (2 * n * sum_of_squares) - (n + 1) / n),
        "zipf": (zipf, 2 * ((n + 1) * harmonic - n) / (n * harmonic) - (n + 1) / n),
    }
    rng = np.random.default_rng(0)
    for name, (counts, gini) in cases.items():
        shuffled = rng.permutation(np.array(counts, dtype=np.int64)).tolist()
        found = metric.compute(layer=[3], counts=[shuffled])
        assert found["gini"] == pytest.approx(gini, abs=1e-12), name
        assert found["layers"]["3"]["gini"] == found["gini"]


@pytest.mark.parametrize("seed", range(5))
def test_load_against_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = (rng.pareto(1.0, 12) * 20).astype(int).tolist()
    mean = sum(counts) / 12
    shares = [c / sum(counts) for c in counts if c]
    found = load_metric("moe_load").compute(layer=[0], counts=[counts])
    assert found["gini"] == pytest.approx(slow_gini(counts), abs=1e-12)
    assert found["max_over_mean"] == pytest.approx(max(counts) / mean)
    assert found["coefficient_of_variation"] == pytest.approx(
        math.sqrt(sum((c - mean) ** 2 for c in counts) / 12) / mean
    )
    assert found["entropy"] == pytest.approx(-sum(p * math.log(p) for p in shares) / math.log(12))
    assert found["dead_share"] == pytest.approx(counts.count(0) / 12)


def test_batches_of_a_layer_add_up_and_layers_are_averaged() -> None:
    metric = load_metric("moe_load")
    metric.add_batch(layer=[0, 1], counts=[[4, 0], [1, 1, 1]])
    metric.add_batch(layer=[0], counts=[[0, 4]])
    metric.add_batch(layer=[1], counts=[[2, 0, 0]])
    found = metric.compute()
    assert found["layers"]["0"]["max_over_mean"] == 1.0
    assert found["layers"]["1"]["max_over_mean"] == pytest.approx(3 * 3 / 5)
    assert found["max_over_mean"] == pytest.approx((1.0 + 9 / 5) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_specialisation_against_loops(seed: int) -> None:
    joint = np.random.default_rng(seed).integers(0, 30, (3, 5))
    total = joint.sum()
    expected = sum(
        joint[d, e] / total * math.log2(joint[d, e] * total / (joint[d].sum() * joint[:, e].sum()))
        for d in range(3)
        for e in range(5)
        if joint[d, e]
    )
    rows = {"layer": [0] * 3, "domain": ["a", "b", "c"], "counts": joint.tolist()}
    found = load_metric("moe_specialisation").compute(**rows)
    assert found["mutual_information"] == pytest.approx(expected, abs=1e-12)
    bound = min(-sum(p * math.log2(p) for p in joint.sum(axis=axis) / total if p) for axis in (0, 1))
    assert found["normalised"] == pytest.approx(expected / bound)


def test_specialisation_extremes() -> None:
    metric = load_metric("moe_specialisation")
    apart = metric.compute(layer=[0, 0, 1, 1], domain=["a", "b"] * 2, counts=[[4, 0], [0, 4], [2, 6], [1, 3]])
    assert apart["layers"]["0"] == {"mutual_information": 1.0, "normalised": 1.0}
    assert apart["layers"]["1"]["mutual_information"] == pytest.approx(0.0, abs=1e-12)
    assert metric.compute(layer=[0], domain=["a"], counts=[[1, 2]])["normalised"] == 0.0


def test_drift() -> None:
    found = load_metric("router_drift").compute(
        layer=[0, 0, 1], predictions=[[0, 1], [2, 3], [5, 6]], references=[[1, 0], [2, 1], [7, 8]]
    )
    assert found["layers"]["0"] == pytest.approx({"agreement": 0.75, "jaccard": (1 + 1 / 3) / 2, "unchanged": 0.5})
    assert found["layers"]["1"] == {"agreement": 0.0, "jaccard": 0.0, "unchanged": 0.0}
    assert found["agreement"] == 0.375


def slow_drops(experts: np.ndarray, weights: np.ndarray, capacity: int, policy: str) -> set[tuple[int, int]]:
    places = list(np.ndindex(*experts.shape))
    if policy == "probability":
        places.sort(key=lambda place: (-weights[place], place))
    taken: Counter[int] = Counter()
    dropped = set()
    for place in places:
        taken[experts[place]] += 1
        if taken[experts[place]] > capacity:
            dropped.add(place)
    return dropped


@pytest.mark.parametrize("policy", ["position", "probability"])
@pytest.mark.parametrize("factor", [0.3, 1.0, 1.25])
def test_drops_against_loops(policy: str, factor: float) -> None:
    rng = np.random.default_rng(1)
    num_tokens, num_experts, top_k = 60, 7, 2
    scores = rng.normal(size=(num_tokens, num_experts)) + np.linspace(0, 3, num_experts)
    experts = np.argsort(-scores, axis=1)[:, :top_k]
    weights = rng.integers(1, 6, (num_tokens, top_k)) / 8
    capacity = math.ceil(round(factor * 100) * num_tokens * top_k / num_experts / 100)
    dropped = slow_drops(experts, weights, capacity, policy)
    assert dropped
    found = load_metric("capacity_drop_rate").compute(
        layer=[2] * num_tokens,
        experts=experts.tolist(),
        weights=weights.tolist(),
        num_experts=num_experts,
        capacity_factor=factor,
        policy=policy,
    )
    layer = found["layers"]["2"]
    assert (layer["capacity"], layer["num_dropped"], layer["num_choices"]) == (capacity, len(dropped), experts.size)
    assert found["dropped_weight"] == pytest.approx(sum(weights[place] for place in dropped) / weights.sum())
    lost = [t for t in range(num_tokens) if all((t, k) in dropped for k in range(top_k))]
    assert found["tokens_without_expert"] == pytest.approx(len(lost) / num_tokens)


def test_capacity_is_exact() -> None:
    # 1.1 * 10 is above 11 in binary floating point.
    rows = {"layer": [0] * 20, "experts": [[0]] * 20, "weights": [[1.0]] * 20}
    found = load_metric("capacity_drop_rate").compute(**rows, num_experts=2, capacity_factor=1.1)
    assert (found["layers"]["0"]["capacity"], found["layers"]["0"]["num_dropped"]) == (11, 9)


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("moe_load", {"layer": [0], "counts": [[0, 0]]}, "not all 0"),
        ("moe_load", {"layer": [0, 0], "counts": [[1, 0], [1, 0, 0]]}, "rows of 2 and of 3"),
        ("moe_specialisation", {"layer": [0], "domain": ["a"], "counts": [[-1, 2]]}, "none negative"),
        ("router_drift", {"layer": [0], "predictions": [[1, 1]], "references": [[1, 2]]}, "different ids"),
        (
            "capacity_drop_rate",
            {"layer": [0], "experts": [[0]], "weights": [[1.0]], "num_experts": 2, "policy": "luck"},
            "policy='luck'",
        ),
    ],
)
def test_bad_input(name: str, rows: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_metric(name).compute(**rows)


def test_unknown_metric() -> None:
    with pytest.raises(ValueError, match="name='accuracy' is no metric"):
        load_metric("accuracy")


@pytest.mark.parametrize("name", METRICS)
def test_a_copied_folder_is_a_module_and_a_space(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    source = Path(hf_mixture.metrics.__file__).parent / name
    folder = Path(shutil.copytree(source, tmp_path / name))
    assert "hf_mixture" not in (folder / f"{name}.py").read_text(encoding="utf-8")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\ntitle: ")
    assert "- metric" in card
    monkeypatch.chdir(tmp_path)
    metric = evaluate.load(f"./{name}")
    assert metric.inputs_description
    code = card.split("```python\n")[1].split("```")[0]
    exec(code, {})  # noqa: S102 - the example of the card


def test_without_evaluate_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(ImportError, match=r'"?evaluate.* is not installed; .* "hf-mixture\[metrics\]"'):
        load_metric("moe_load")


def test_the_extra_names_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [text.split(">")[0] for text in project["optional-dependencies"]["metrics"]] == ["evaluate", "scipy"]


@pytest.mark.parametrize("name", METRICS)
def test_no_rows_are_refused(name: str) -> None:
    metric = load_metric(name)
    options = {
        "capacity_drop_rate": {"num_experts": 2},
        "cluster_coverage": {"item_clusters": [0, 1]},
        "intra_list_diversity": {"item_vectors": [[1.0], [2.0]]},
        "segmentation_miou": {"num_classes": 2},
    }
    with pytest.raises(ValueError, match=r"give|not defined|needs"):
        metric.compute(**{column: [] for column in metric.features}, **options.get(name, {}))
