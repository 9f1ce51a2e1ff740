"""Table, plot and report of an upcycling run. Every figure comes from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.training.report import reproduce_lines


def table(results: Mapping[str, Any]) -> str:
    """The systems: parameters, held-out bits per byte, difference from the dense model, use of the experts."""
    rows = []
    for system in results["systems"]:
        load = system["load"] or {}
        scores = system["test_bits_per_byte"]
        spread = "" if system["sd"] is None else f" ± {system['sd']:.4f}"
        rows.append(
            {
                "system": system["name"],
                "parameters": f"{system['parameters']:,}",
                "s/step": f"{system['seconds_per_step']:.3f}",
                **{domain: f"{value:.4f}" for domain, value in scores.items() if domain != "mean"},
                "mean": f"{scores['mean']:.4f}{spread}",
                "less dense": f"{system['less_dense']['mean']:+.4f}",
                "max/mean": _figure(load.get("max_over_mean"), ".2f"),
                "CoV": _figure(load.get("cov"), ".3f"),
                "dead": f"{load['dead']:g} of {load['num_experts']:g}" if load else "",
                "experts/token": _figure(load.get("experts_per_token"), ".2f"),
            }
        )
    return markdown_table(rows)


def draw(path: Path, results: Mapping[str, Any]) -> None:
    """Plot held-out bits per byte along the training, and the shares of the experts, of the first seed.

    Args:
        path: The PNG file.
        results: The content of `results.json`.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    weights = results["weights"]
    for system in results["systems"]:
        run = system["runs"][0]
        points = [(0, run["start_bits_per_byte"]["mean"])]
        for entry in run["curve"]:
            total = sum(weights[domain] * entry[domain] for domain in weights if weights[domain])
            points.append((entry["step"], total / sum(weights.values())))
        left.plot(*zip(*points, strict=True), marker="o", markersize=3, label=system["name"])
        if system["load"] is not None:
            counts = np.sum([np.array(layers) for layers in run["load"]["counts"].values()], axis=0, dtype=np.float64)
            shares = np.sort(counts / counts.mean(axis=1, keepdims=True), axis=1)[:, ::-1]
            places = np.arange(1, shares.shape[1] + 1)
            right.plot(places, shares.mean(axis=0), marker="o", markersize=3, label=system["name"])
            right.fill_between(places, shares.min(axis=0), shares.max(axis=0), alpha=0.15)
    left.set(title="held-out text", xlabel="optimizer step after upcycling", ylabel="bits per byte")
    right.axhline(1.0, color="grey", linewidth=0.8)
    right.set(
        title="load of the experts, mean and range over layers",
        xlabel="experts of a layer, most used first",
        ylabel="tokens / mean of the layer",
        ylim=(0, None),
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=120)


def body(results: Mapping[str, Any]) -> str:
    """What report and cards share: how it was made, the comparison, the plot, the versions."""
    tokens, parameters, spec = results["tokens"], results["parameters"], results["upcycle"]
    start = max(abs(run["start_bits_per_byte"]["mean"] - dense_start(results)) for run in _runs(results))
    seeds = [run["seed"] for run in results["systems"][0]["runs"]]
    copies = f"{spec['num_experts']} copies of each MLP"
    if spec["granularity"] > 1:
        copies += f", each cut into {spec['granularity']} shards"
    spread = f"Means over the seeds {', '.join(map(str, seeds))}, ± standard deviation."
    if len(seeds) == 1:
        spread = f"One seed ({seeds[0]}): how far another would be is not known, and small differences mean nothing."
    lines = [
        "## How it was made",
        "",
        f"A dense model of {parameters['dense']:,} parameters was trained on {tokens['pretrain']:,} tokens. It was "
        f"then trained on over {tokens['continued']:,} further tokens, as it is (`dense`) and as a mixture of experts "
        f"with {copies}, top {spec['top_k']} ({parameters['moe']:,} parameters, {parameters['active']:,} of them for "
        "a token with exactly that many experts), once with each router. All systems read the same text with the same "
        "learning rate: equal tokens, not equal computation.",
        "",
        f"Before that training, held-out bits per byte of the systems are within {start:.2g} of the dense model's "
        f"{dense_start(results):.4f}.",
        "",
        "## Comparison",
        "",
        table(results),
        "",
        "Bits per byte on the test split of each domain, lower is better; `mean` weighs the domains as the training "
        f"does. {spread} max/mean and CoV (standard deviation / mean) describe the number of tokens of the experts of "
        "a layer on the test text, averaged over the layers: 1 and 0 are a perfect balance. A dead expert was not "
        "chosen once.",
        "",
        "![Bits per byte and load](comparison.png)",
        "",
        "## Routers",
        "",
        markdown_table(
            [
                {
                    "system": system["name"],
                    "router": system["router"]["router"],
                    "options": _listed(system["router"]["options"]),
                    "losses": _listed(system["router"]["losses"]),
                    "bias": _listed(system["router"]["bias"] or {}),
                }
                for system in results["systems"]
                if system["router"] is not None
            ]
        ),
        "",
        *reproduce_lines(results),
    ]
    return "\n".join(lines)


def dense_start(results: Mapping[str, Any]) -> float:
    """Validation bits per byte of the dense model before `continued`."""
    value: float = results["systems"][0]["start_bits_per_byte"]["mean"]
    return value


def _runs(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [run for system in results["systems"] for run in system["runs"]]


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
