from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hf_mixture.metrics import load_metric
from hf_mixture.moe.trace.report import write_report
from hf_mixture.moe.trace.statistics import summarise_trace
from hf_mixture.moe.trace.trace import RouterTrace, TracedRouter


@pytest.fixture
def trace() -> RouterTrace:
    rng = np.random.default_rng(0)
    counts = tuple(rng.integers(0, 20, (3, num_experts)) for num_experts in (4, 6))
    counts[1][:, 2] = 0
    routers = tuple(TracedRouter(f"model.<b>{i}</b>.gate", i + 1, i, c.shape[1], 2) for i, c in enumerate(counts))
    return RouterTrace(
        routers,
        np.array([1, 11, 21]),
        counts,
        tokens=np.full((3, 2), 9),
        unrouted=np.zeros((3, 2), dtype=np.int64),
        header={"model_type": "a<script>", "sample_every": 10},
    )


def test_numbers_are_those_of_the_metric(trace: RouterTrace) -> None:
    numbers = summarise_trace(trace)
    metric = load_metric("moe_load")
    for router, counts in zip(numbers["routers"], trace.counts, strict=True):
        expected = metric.compute(layer=[0] * 3, counts=counts.tolist())
        for name in ("max_over_mean", "coefficient_of_variation", "gini", "entropy"):
            assert router[name] == pytest.approx(expected[name], abs=1e-12)
        assert len(router["dead_experts"]) / router["num_experts"] == expected["dead_share"]
        assert router["num_tokens"] == 27
    assert numbers["routers"][1]["dead_experts"] == [2]
    for step in range(3):
        expected = metric.compute(layer=[0, 1], counts=[counts[step].tolist() for counts in trace.counts])
        for name, curve in numbers["curves"].items():
            assert curve[step] == pytest.approx(expected[name], abs=1e-12)


def test_page_needs_nothing_else_and_escapes_names(trace: RouterTrace, tmp_path: Path) -> None:
    page = write_report(trace, tmp_path / "new").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>0</b>" not in page
    assert "a&lt;script&gt;" in page
    assert "model.&lt;b&gt;1&lt;/b&gt;.gate" in page
    assert re.findall(r'(?:src|href)="([^"]{0,22})', page) == ["data:image/png;base64,"]
    assert ">1 of 6<" in page


def test_image(trace: RouterTrace, tmp_path: Path) -> None:
    path = write_report(trace, tmp_path, format="png")
    assert path.name == "report.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="format='pdf'"):
        write_report(trace, tmp_path, format="pdf")  # type: ignore[arg-type]
