"""The requests that a saved model has carried out, kept beside its weights without naming anyone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import replaced_folder, restore_folder, write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_document
from hf_mixture.models.mm_recommender.audit import forget_recall, group_norms, membership_auc, utility
from hf_mixture.models.mm_recommender.interactions import Interactions
from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommender
from hf_mixture.models.mm_recommender.options import UnlearningOptions
from hf_mixture.models.mm_recommender.requests import Split, UnlearningRequest, check_salt, split_interactions
from hf_mixture.models.mm_recommender.training import check_catalogue, unlearn


FILE = "unlearning.json"
FORMAT = "hf_mixture_unlearning"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One request that was carried out.

    Args:
        request: Salted hash of the request.
        retained: Salted hash of the interactions that it left; the next request starts from them.
        kinds: What was asked for.
        counts: Numbers of users, items, interactions and items with modalities asked for, and of interactions that
            went and stayed.
        options: The `UnlearningOptions`.
        num_steps: Optimizer steps taken.
        before: Measures before.
        after: Measures after.
    """

    request: str
    retained: str
    kinds: list[str]
    counts: dict[str, int]
    options: dict[str, Any]
    num_steps: int
    before: dict[str, Any]
    after: dict[str, Any]


def read_journal(folder: str | Path) -> list[JournalEntry]:
    """Read the requests that a saved model has carried out.

    Args:
        folder: Folder of the model.

    Returns:
        The entries, oldest first; none if the model was never asked.

    Raises:
        ValueError: If the file is not such a journal.

    Example:
        >>> import tempfile
        >>> from hf_mixture.models.mm_recommender.journal import read_journal
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_journal(folder)
        []
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    values = read_document(path, FORMAT, VERSION)
    names = {field.name for field in dataclasses.fields(JournalEntry)}
    with reading(path):
        for entry in values["entries"]:
            if set(entry) != names:
                raise ValueError(f"an entry of {path} has the keys {sorted(entry)}; it must have {sorted(names)}")
        return [JournalEntry(**entry) for entry in values["entries"]]


def unlearn_saved(
    folder: str | Path,
    interactions: Interactions,
    request: UnlearningRequest,
    options: UnlearningOptions | None = None,
    *,
    salt: bytes,
    validation: Interactions | None = None,
    **fields: Any,
) -> JournalEntry:
    """Make a saved model forget, and save it in its place with an entry of its journal.

    The folder is replaced as a whole: a run that is killed leaves the model as it was, and can be started again. A
    request that is the journal's last one is done, and not carried out again.

    Args:
        folder: Folder of the model.
        interactions: What the model was trained on; after earlier requests, what the last one retained.
        request: What to forget.
        options: How. Default: as `UnlearningOptions` has it.
        salt: Secret of at least 16 bytes, the same for all requests to a model; kept elsewhere.
        validation: Held-out interactions, for the measures and the stop level.
        fields: Further arguments of `unlearn`.

    Returns:
        The entry.

    Raises:
        ValueError: If the request does not fit, or the interactions are not those that the last request left; the
            model has not been changed then.

    Example:
        >>> import tempfile
        >>> from hf_mixture import UnlearningOptions, UnlearningRequest, unlearn_saved
        >>> from hf_mixture.models.mm_recommender.synthetic import synthetic_recommender
        >>> model, data = synthetic_recommender(num_users=20, num_items=15)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder + "/model")
        ...     request, options = UnlearningRequest(users=[3]), UnlearningOptions(num_steps=0)
        ...     entry = unlearn_saved(folder + "/model", data.train, request, options, salt=bytes(32))
        >>> entry.kinds, entry.counts["forgotten"]
        (['users'], 8)
    """
    place, options = Path(folder), options or UnlearningOptions()
    check_salt(salt)
    restore_folder(place)
    entries = read_journal(place)
    identity = request.salted_hash(salt)
    if entries and entries[-1].request == identity:
        return entries[-1]
    if entries and entries[-1].retained != fingerprint(interactions, salt):
        raise ValueError(
            f"the interactions are not those that request {len(entries)} of {place / FILE} left, or the salt is "
            "another; give what the last request retained, and the same salt"
        )
    model = MultiModalRecommender.from_pretrained(place)
    check_catalogue(model, interactions)
    split = split_interactions(interactions, request, modality_names=list(model.config.modality_sizes))
    before = measures(model, split, validation)
    outcome = unlearn(model, interactions, request, options, validation=validation, **fields)
    entry = JournalEntry(
        request=identity,
        retained=fingerprint(split.retain, salt),
        kinds=request.kinds,
        counts={
            "users": len(request.users),
            "items": len(request.items),
            "interactions": len(request.interactions),
            "modalities": len(request.modalities),
            "forgotten": len(split.forget),
            "retained": len(split.retain),
        },
        options=dataclasses.asdict(options),
        num_steps=outcome.num_steps,
        before=before,
        after=measures(model, split, validation),
    )
    with replaced_folder(place) as partial:
        model.save_pretrained(partial)
        write_journal(partial, [*entries, entry])
    return entry


def write_journal(folder: Path, entries: list[JournalEntry]) -> None:
    """Write the journal of a model.

    Args:
        folder: Its folder.
        entries: The entries, oldest first.
    """
    values = {"format": FORMAT, "version": VERSION, "entries": [dataclasses.asdict(entry) for entry in entries]}
    write_atomic(folder / FILE, json.dumps(values, indent=2, allow_nan=False) + "\n")


def fingerprint(interactions: Interactions, salt: bytes) -> str:
    """Identify interactions without naming anyone.

    Args:
        interactions: The interactions.
        salt: The secret.

    Returns:
        SHA-256 of salt and pairs, in hexadecimal.
    """
    return hashlib.sha256(salt + interactions.keys.astype("<i8").tobytes()).hexdigest()


def measures(model: MultiModalRecommender, split: Split, validation: Interactions | None) -> dict[str, Any]:
    """What the journal says of a model before and after a request.

    Args:
        model: The model.
        split: The parts of the interactions.
        validation: Held-out interactions.

    Returns:
        Forget recall, membership AUC, utility on the held-out interactions (each None where there is nothing to
        measure), and norms.
    """
    tables = model.tables()
    some = len(split.forget) > 0
    return {
        "forget_recall@20": forget_recall(tables, split) if some else None,
        "membership_auc": membership_auc(tables, split, validation) if some else None,
        "validation_recall@20": utility(tables, split, validation).recall if validation is not None else None,
        "norms": group_norms(model),
    }


def report_lines(entries: list[JournalEntry]) -> list[str]:
    """The section of a model card about what the model was asked to forget.

    Args:
        entries: The entries of its journal.

    Returns:
        Lines of Markdown; none without entries.
    """
    if not entries:
        return []
    from hf_mixture.hub.cards import markdown_table

    rows = [
        {
            "request": number,
            "kinds": ", ".join(entry.kinds),
            "interactions that went": entry.counts["forgotten"],
            "schedule": entry.options["schedule"],
            "steps": entry.num_steps,
            **{
                name: f"{_shown(entry.before[key])} → {_shown(entry.after[key])}"
                for name, key in (
                    ("forget recall@20", "forget_recall@20"),
                    ("membership AUC", "membership_auc"),
                    ("validation recall@20", "validation_recall@20"),
                )
            },
            "salted hash": f"`{entry.request[:16]}`",
        }
        for number, entry in enumerate(entries, start=1)
    ]
    return [
        "## Unlearning",
        "",
        f"The model was asked to forget {len(rows)} time{'s' * (len(rows) > 1)}. Ids are not published; who holds the "
        "salt can compare a request with its hash. `unlearning.json` has the full hashes, options and measures.",
        "",
        markdown_table(rows),
    ]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
