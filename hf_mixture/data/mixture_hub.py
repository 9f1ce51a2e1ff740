"""A `Mixture` on the Hub: download, upload, and its section of the dataset card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_mixture.data.mixture_file import FILE_NAME
from hf_mixture.data.mixture_report import limits, origin


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

START = "<!-- hf_mixture:mixture:start -->"
END = "<!-- hf_mixture:mixture:end -->"


def push(
    mixture: Mixture,
    repo_id: str,
    *,
    revision: str | None,
    private: bool | None,
    token: str | bool | None,
    commit_message: str,
    create_pr: bool,
) -> str:
    """Commit `mixture.json` and the card section to a dataset repository; see `Mixture.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    card = update_card(_read_card(api, repo_id, revision), mixture, repo_id)
    commit = api.create_commit(
        repo_id,
        [
            CommitOperationAdd(FILE_NAME, mixture.to_json().encode("utf-8")),
            CommitOperationAdd("README.md", card.encode("utf-8")),
        ],
        commit_message=commit_message,
        repo_type="dataset",
        revision=revision,
        create_pr=create_pr,
    )
    return str(commit.commit_url)


def _read_card(api: object, repo_id: str, revision: str | None) -> str | None:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision)  # type: ignore[attr-defined]
    except EntryNotFoundError:
        return None
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def card_section(mixture: Mixture, repo_id: str) -> str:
    """Return the section of the dataset card that describes a mixture, between its markers."""
    sources, policies, epochs = mixture.sources, mixture.policies, _epochs(mixture)
    head = ["domain", "weight", "source", "revision", *(["epochs"] if epochs else []), "licence", "limits"]
    if not policies:
        head.remove("limits")
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, weight in mixture.weights.items():
        source = sources.get(name)
        facts = {"domain": name, "weight": f"{weight:.6g}", "epochs": epochs.get(name)}
        if source:
            facts |= {"source": source.path, "revision": source.revision, "licence": source.license}
        if name in policies:
            facts["limits"] = limits(policies[name])
        rows.append("| " + " | ".join(_cell(facts.get(column)) for column in head) + " |")
    title = f"## Mixture: {_cell(mixture.name)}" if mixture.name else "## Mixture"
    about = [mixture.description.replace(START, "").replace(END, ""), ""] if mixture.description else []
    usage = [
        "```python",
        "from hf_mixture import Mixture",
        "",
        f'mixture = Mixture.from_pretrained("{repo_id}")',
        "```",
    ]
    counted = f"The weights count {mixture.unit}; the seed of the order is {mixture.seed}. Exact: `{FILE_NAME}`."
    if mixture.budget:
        counted += f" Budget: {mixture.budget[0]} {mixture.budget[1]}."
    return "\n".join(
        [START, title, "", *about, counted, "", *rows, "", *_schedule(mixture), *_origin(mixture), *usage, END]
    )


def _epochs(mixture: Mixture) -> dict[str, str]:
    """Epochs of each source at the budget, as text, where budget and sizes are known."""
    from hf_mixture.data.dry_run import dry_run

    if mixture.budget is None:
        return {}
    try:
        report = dry_run(mixture, *mixture.budget)
    except ValueError:
        # A length or a size is not recorded.
        return {}
    return {name: f"{epochs:.4g}" for name, epochs in report.epochs.items() if epochs is not None}


def _schedule(mixture: Mixture) -> list[str]:
    """The weights over the run, as a table."""
    if mixture.schedule is None:
        return []
    names = " | ".join(map(_cell, mixture.names))
    lines = [f"| from ({mixture.schedule_unit}) | {names} | then |", "|---" * (len(mixture.names) + 2) + "|"]
    for segment in mixture.schedule:
        weights = " | ".join(f"{weight:.6g}" for weight in segment.weights)
        lines.append(f"| {segment.start:g} | {weights} | {segment.interpolation} |")
    return [*lines, ""]


def _origin(mixture: Mixture) -> list[str]:
    """How the weights were found, as a list, with the command that finds them again in a block of its own."""
    facts = origin(mixture)
    command = facts.pop("command", None)
    lines = [f"- {key}: {_cell(_line(value))}" for key, value in facts.items()]
    if command is not None:
        # A fence that is longer than any inside keeps the command from closing it.
        lines += ["", "````bash", _line(command).replace("````", ""), "````"]
    return [*lines, ""] if lines else []


def _line(text: str) -> str:
    """One line without the markers of the section."""
    return " ".join(text.replace(START, "").replace(END, "").split())


def update_card(card: str | None, mixture: Mixture, repo_id: str, *, license: str | None = None) -> str:
    """Return the card with the mixture's section replaced, or added at its end.

    Args:
        card: The card, or None for a new one.
        mixture: The mixture.
        repo_id: Where the card says that the mixture is.
        license: Licence of a new card where the mixture has none. Default: none.

    Raises:
        ValueError: The card has one marker without the other.
    """
    section = card_section(mixture, repo_id)
    if card is None:
        from huggingface_hub import DatasetCardData

        license = mixture.license.lower() if mixture.license else license
        facts = DatasetCardData(license=license, tags=["hf_mixture", "data-mixture"])
        return f"---\n{facts.to_yaml()}\n---\n\n{section}\n"
    start, end = card.find(START), card.find(END)
    if (start < 0) != (end < 0) or end < start:
        raise ValueError(
            f"README.md has only one of the markers {START} and {END}, or in the wrong order; restore both or "
            "remove both"
        )
    if start < 0:
        return f"{card.rstrip()}\n\n{section}\n"
    return card[:start] + section + card[end + len(END) :]


def _cell(value: str | None) -> str:
    return "" if value is None else value.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
