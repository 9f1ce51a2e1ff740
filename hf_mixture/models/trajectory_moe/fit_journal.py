"""What a fit has finished, on disk: the ends of ECM by batch, and every polished start."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_document
from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.layout import Layout
from hf_mixture.models.trajectory_moe.polish import Optimum


FORMAT = "hf_mixture.trajectory_fit_journal"
VERSION = 1


class FitJournal:
    """The journal of one fit; without a path it keeps nothing.

    Args:
        path: The file, or None.
        fingerprint: Of the data, the sizes and the settings.
        finished: What the file holds.
    """

    def __init__(self, path: Path | None, fingerprint: str, finished: dict[str, Any]) -> None:
        self.path, self.fingerprint, self.finished = path, fingerprint, finished

    @classmethod
    def open(
        cls,
        path: str | PathLike[str] | None,
        data: TrajectoryData,
        layout: Layout,
        settings: dict[str, Any],
        first_classes: Any,
    ) -> FitJournal:
        """Open or begin a journal.

        Args:
            path: The file, or None.
            data: The data of the fit.
            layout: Its sizes.
            settings: What else its result depends on.
            first_classes: The classes of a start that is given, or None.

        Raises:
            ValueError: If the file is not a journal, or of another fit.
        """
        empty: dict[str, Any] = {"ecm": {}, "polished": {}}
        if path is None:
            return cls(None, "", empty)
        given = None if first_classes is None else np.asarray(first_classes).tolist()
        fingerprint = _fingerprint(data, [dataclasses.asdict(layout), settings, given])
        place = Path(path)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            return cls(place, fingerprint, empty)
        remedy = "choose another file, or remove it"
        content = read_document(place, FORMAT, VERSION, allow_nan=True, remedy=remedy)
        if content.get("fingerprint") != fingerprint:
            raise ValueError(f"journal={str(path)!r} is of a fit with other data, sizes or settings; {remedy}")
        with reading(place, remedy):
            journal = cls(place, fingerprint, {name: dict(content["finished"][name]) for name in empty})
            # Taken apart once, so that a damaged entry is found before the fit begins.
            for batch in journal.finished["ecm"]:
                journal.ecm(int(batch))
            for start in journal.finished["polished"]:
                journal.polished(int(start))
            return journal

    def ecm(self, batch: int) -> tuple[Any, Any] | None:
        """Vectors and log-likelihoods after ECM of a batch, if it is finished."""
        known = self.finished["ecm"].get(str(batch))
        return None if known is None else (np.array(known["vectors"]), np.array(known["log_likelihoods"]))

    def keep_ecm(self, batch: int, vectors: Any, log_likelihoods: Any) -> None:
        """Keep the end of ECM of a batch."""
        # JSON has no infinity: a start that has failed is below all others.
        values = np.maximum(log_likelihoods, -1e300)
        self.finished["ecm"][str(batch)] = {"vectors": vectors.tolist(), "log_likelihoods": values.tolist()}
        self._write()

    def polished(self, start: int) -> Optimum | None:
        """The optimum of a start, if it is polished."""
        known = self.finished["polished"].get(str(start))
        return None if known is None else Optimum(**{**known, "vector": np.array(known["vector"])})

    def keep_polished(self, start: int, optimum: Optimum) -> None:
        """Keep the optimum of a start."""
        self.finished["polished"][str(start)] = {**dataclasses.asdict(optimum), "vector": optimum.vector.tolist()}
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            content = {
                "format": FORMAT,
                "version": VERSION,
                "fingerprint": self.fingerprint,
                "finished": self.finished,
            }
            write_atomic(self.path, json.dumps(content))


def _fingerprint(data: TrajectoryData, settings: Any) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    arrays = (data.values, data.times, data.mask, data.growth_covariates, data.cluster_covariates)
    for array in (*arrays, *(() if data.labels is None else (data.labels,))):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
