"""What a finished search leaves for people: tables, plots, report and card. Every figure comes from `results.json`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.cards import markdown_table
from hf_mixture.training.report import reproduce_lines


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture
    from hf_mixture.data.search.table import RunTable


PAPERS = {
    "admire": "arXiv 2508.11551",
    "aioli": "arXiv 2411.05735",
    "climb": "arXiv 2504.13161",
    "dml": "arXiv 2403.16952",
    "regmix": "arXiv 2407.01492",
}


def compare(runs: Mapping[str, Sequence[Mapping[str, Any]]], metric: str | Mapping[str, float]) -> dict[str, Any]:
    """Put the runs of the comparison side by side.

    Args:
        runs: For each mixture, one entry for each seed: `seed` and `losses` by metric name. The first mixture is the
            one that was found.
        metric: The objective: a metric, or weights by metric name.

    Returns:
        `systems`: for each mixture its runs, mean and standard deviation of the objective, and mean losses;
        `differences`: objective of the first mixture less that of each other one, seed by seed, with the mean.
    """
    parts = {metric: 1.0} if isinstance(metric, str) else dict(metric)
    systems: list[dict[str, Any]] = []
    for name, entries in runs.items():
        values = [sum(weight * entry["losses"][part] for part, weight in parts.items()) for entry in entries]
        systems.append(
            {
                "name": name,
                "runs": [{**entry, "objective": value} for entry, value in zip(entries, values, strict=True)],
                "objective": _spread(values),
                "losses": {
                    key: statistics.fmean(entry["losses"][key] for entry in entries) for key in entries[0]["losses"]
                },
            }
        )
    found, *others = systems
    differences = {}
    for other in others:
        pairs = zip(found["runs"], other["runs"], strict=True)
        values = [ours["objective"] - theirs["objective"] for ours, theirs in pairs]
        differences[other["name"]] = {**_spread(values), "by_seed": values}
    return {"systems": systems, "differences": differences}


def domains_table(results: Mapping[str, Any]) -> str:
    """The domains: text, shares of every mixture of the comparison, passes over the text in one run."""
    rows = []
    for name, facts in results["domains"].items():
        shares = {system["name"]: float(system["weights"][name]) for system in results["comparison"]["systems"]}
        rows.append(
            {
                "domain": name,
                "documents": f"{facts['documents']:,}",
                "tokens": f"{facts['tokens']:,}",
                "licence": ", ".join(facts["licences"]),
                **shares,
                "epochs at budget": float(facts["epochs_at_budget"]),
            }
        )
    return markdown_table(rows)


def comparison_table(results: Mapping[str, Any]) -> str:
    """The objective of every run of the comparison, its mean and standard deviation, and the mean difference."""
    comparison = results["comparison"]
    rows = []
    for system in comparison["systems"]:
        difference = comparison["differences"].get(system["name"])
        rows.append(
            {
                "mixture": system["name"],
                **{f"seed {run['seed']}": figure(run["objective"]) for run in system["runs"]},
                "mean": figure(system["objective"]["mean"]),
                "sd": figure(system["objective"]["sd"]),
                f"{comparison['systems'][0]['name']} less this": figure(difference["mean"]) if difference else "",
            }
        )
    return markdown_table(rows)


def verdict(results: Mapping[str, Any]) -> str:
    """One sentence: whether the mixture that was found did better than the baselines.

    Args:
        results: The content of `results.json`, with its `objective` and `comparison`.
    """
    ours, *others = results["comparison"]["systems"]
    sign = 1 if results["objective"]["direction"] == "minimize" else -1
    best = min(others, key=lambda system: sign * system["objective"]["mean"], default=ours)
    lead = sign * (best["objective"]["mean"] - ours["objective"]["mean"])
    if lead < 0:
        return (
            f"{best['name']} is better than {ours['name']} by {figure(-lead)} in the mean of the seeds: prefer it, or "
            "search with more runs or text."
        )
    return f"{ours['name']} is better than {best['name']}, the next, by {figure(lead)} in the mean of the seeds."


def losses_table(results: Mapping[str, Any]) -> str:
    """The mean loss of every mixture on every domain and target."""
    systems = results["comparison"]["systems"]
    return markdown_table(
        [
            {"metric": key, **{system["name"]: figure(system["losses"][key]) for system in systems}}
            for key in systems[0]["losses"]
        ]
    )


def figure(value: float) -> str:
    """Format a loss: four places, which is what seeds allow to tell apart."""
    return f"{value:.4f}"


def write_card(folder: Path, results: Mapping[str, Any], mixture: Mixture, plots: Mapping[str, str]) -> None:
    """Write `README.md`: the card of the mixture, ready for a data set repository.

    Args:
        folder: The run folder.
        results: The content of `results.json`.
        mixture: The mixture.
        plots: Caption by file name of the plots in the folder.
    """
    from hf_mixture.data.mixture_hub import update_card

    section = update_card(None, mixture, ".", license="apache-2.0")
    head, _, rest = section.removeprefix("---\n").partition("---\n")
    text = f"---\n{head}---\n\n# {results['name']}\n\n{rest.strip()}\n\n{body(results, plots)}\n"
    write_atomic(folder / "README.md", text)


def body(results: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    comparison = results["comparison"]
    goal = results["objective"]
    lines = ["## Domains", "", domains_table(results), ""]
    lines += [f"Shares count tokens. A run of the budget reads {results['budget']:,} tokens.", ""]
    lines += _search_lines(results)
    lines += ["## Comparison", ""]
    lines += [
        f"Each mixture trained the same model ({comparison['parameters']:,} parameters) for {comparison['tokens']:,} "
        f"tokens ({comparison['steps']:,} steps) with each seed; all obey the bounds of the recipe. Objective: "
        f"{goal['name']}, {goal['direction']}d. Losses are mean nats per token on held-out test text, which no proxy "
        "was scored on.",
        "",
        comparison_table(results),
        "",
        verdict(results),
        "",
        losses_table(results),
        "",
        *(f"![{caption}]({name})\n" for name, caption in plots.items()),
        *reproduce_lines(results),
    ]
    return "\n".join(lines)


def _search_lines(results: Mapping[str, Any]) -> list[str]:
    search = results["search"]
    if search is None:
        return _online_lines(results["online"])
    rows = [{"": name, "value": value} for name, value in _search_facts(search).items() if value is not None]
    notes = [f"- {warning}" for warning in search["warnings"]]
    return ["## Search", "", markdown_table(rows), "", *notes, *([""] if notes else [])]


def _online_lines(online: Mapping[str, Any]) -> list[str]:
    rows = [
        {"domain": name, "mean weight": weight, "sd over seeds": online["sd_over_seeds"][name]}
        for name, weight in online["average_weights"].items()
    ]
    return [
        "## Weights that changed during the run",
        "",
        f"{', '.join(filter(None, (online['method'], PAPERS.get(online['method']))))}, from equal shares, with seeds "
        f"{', '.join(map(str, online['seeds']))}. {online['share_of_steps_spent_measuring']:.0%} of the steps served "
        "to measure (they train like any other and count against the budget), with "
        f"{max(online['num_evaluations'])} evaluations of the validation text. "
        "`mixture.json` holds the mean over rounds and seeds; `results.json` every round.",
        "",
        markdown_table(rows),
        "",
    ]


def _search_facts(search: Mapping[str, Any]) -> dict[str, Any]:
    facts = {
        "method": ", ".join(filter(None, (search["method"], PAPERS.get(search["method"])))),
        "proxy runs": search["num_runs"],
        "parameters of a proxy": f"{search['parameters']:,}" if search["parameters"] else None,
        "tokens of a proxy run": f"{search['tokens']:,}" if search["tokens"] else None,
        "trained as": search["trained_as"],
        "predictor": (search["predictor"] or {}).get("kind"),
        "predicted objective": search["predicted"],
        "standard deviation of the prediction": search["uncertainty"],
        "rank correlation on held-out runs": search["rho"],
        "best proxy": (search["incumbent"] or {}).get("run_id"),
        "objective of the best proxy": (search["incumbent"] or {}).get("value"),
    }
    return {name: float(value) if isinstance(value, float) else value for name, value in facts.items()}


def draw(
    folder: Path,
    results: Mapping[str, Any],
    table: RunTable | None,
    predicted: Sequence[float] | None,
    trace: Sequence[tuple[float, float]],
) -> dict[str, str]:
    """Draw what there is to draw, as PNG files.

    Args:
        folder: The run folder.
        results: The content of `results.json`.
        table: The finished proxy runs.
        predicted: Held-out predictions of the objective for the runs of the target size.
        trace: Cost and best value of the search.

    Returns:
        Caption by file name.
    """
    from hf_mixture.data.search import plots

    goal = results["objective"]
    domains = list(results["domains"])
    online = results["comparison"]["systems"][0]["runs"][0].get("online")
    systems = results["comparison"]["systems"]
    made = {"mixtures.png": "Shares of every mixture of the comparison"}
    _save(
        plots.plot_mixtures({system["name"]: list(system["weights"].values()) for system in systems}, domains),
        folder / "mixtures.png",
    )
    if table is not None:
        values = _objective_of(goal["metric"], table)
        target = table.fidelity == table.fidelity.max()
        if predicted is not None:
            made["predictions.png"] = "Held-out predictions against what the proxies measured"
            _save(plots.plot_predictions(predicted, values[target], name=goal["name"]), folder / "predictions.png")
        if len(domains) == 3:
            made["ternary.png"] = "Every proxy run in the triangle of the three domains"
            _save(plots.plot_ternary(table.weights[target], values[target], domains), folder / "ternary.png")
    if online is not None:
        from hf_mixture.data.online.history import plot_losses, plot_weights

        seed = results["comparison"]["systems"][0]["runs"][0]["seed"]
        made["weights.png"] = f"Weights along the run of seed {seed}"
        _save(plot_weights(online), folder / "weights.png")
        made["losses.png"] = f"Held-out losses along the run of seed {seed}"
        _save(plot_losses(online), folder / "losses.png")
    if trace:
        made["trace.png"] = "Best proxy found against the cost spent"
        _save(plots.plot_trace({results["search"]["method"]: trace}, name=goal["name"]), folder / "trace.png")
    return made


def _objective_of(metric: str | Mapping[str, float], table: RunTable) -> Any:
    parts = {metric: 1.0} if isinstance(metric, str) else metric
    return sum(weight * table.metrics[name] for name, weight in parts.items())


def _save(axes: Any, path: Path) -> None:
    axes.figure.savefig(path, dpi=120)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
