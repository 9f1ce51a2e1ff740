"""`Mixture`: which domains, in what shares, counted in which unit.

A mixture is a value: frozen, hashable, equal by content, and stored as one small file, `mixture.json`.
"""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hf_mixture.data import mixture_file, mixture_rules
from hf_mixture.data.schedule import Segment, SourcePolicy
from hf_mixture.data.source import UNITS, Source, check_text
from hf_mixture.data.weights import check_names, check_weights


if TYPE_CHECKING:
    from hf_mixture.data.mixture_plan import PlanArguments

Unit = Literal["examples", "tokens", "bytes"]
ScheduleUnit = Literal["examples", "tokens", "bytes", "fraction"]


@dataclass(frozen=True, init=False, repr=False)
class Mixture:
    """Domains and their shares: the weights of a data mixture.

    Args:
        weights: Share of each domain, by name; the order of the names is part of the value. Finite, >= 0, at least
            one > 0. A sum within 1e-9 of 1 is kept as it is, within 1e-2 it is normalised with a notice. A domain of
            weight 0 is never drawn.
        unit: What the shares count: "examples" (rows), "tokens" or "bytes". There is no default, because shares of
            rows and shares of tokens differ by the ratio of the mean lengths.
        seed: Seed of the order, in [0, 2**63). Default: 0.
        sources: Where the rows of a domain come from, by name, for any of the domains.
        schedule: Weights that change: a list of `Segment`, or of tuples (start, weights) or (start, weights,
            interpolation), with weights by name or in order. The first segment starts at 0 with the weights above.
            Default: None, the weights hold for the whole run.
        schedule_unit: What the starts of the segments count: "examples" (positions of the stream), "tokens", "bytes",
            or "fraction" (of the stream, in [0, 1)). Given with a schedule and only then.
        policies: Caps, minimum shares and order of a source, by name, for any of the domains.
        budget: Length of the run that the mixture is meant for, as (amount, unit).
        name: Name of the recipe.
        description: Free text.
        license: Licence of the recipe, not of the data.
        metadata: Facts that are stored and not applied: `provenance`, `tokenizer`, and keys that start with `x_`.
        normalise: Divide the weights, also those of a schedule, by their sum, whatever it is. Default: False.

    Attributes:
        names (`tuple[str, ...]`): The domains, in order.
        shares (`tuple[float, ...]`): Their weights, in the same order; the sum is 1 within 1e-9.
        schedule (`tuple[Segment, ...] | None`): The segments, with weights in the same order.

    Raises:
        ValueError: An argument breaks its rule, a weight lies below a minimum share, or the budget passes a cap that
            must not be passed (checked where the sizes of the sources are recorded).

    Example:
        ```python
        >>> from hf_mixture import Mixture
        >>> mixture = Mixture({"wiki": 0.7, "code": 0.3}, unit="tokens", seed=0)
        >>> mixture.weights
        {'wiki': 0.7, 'code': 0.3}
        >>> mixture == Mixture({"wiki": 7, "code": 3}, unit="tokens", normalise=True)
        True
        >>> from hf_mixture.data.schedule import SourcePolicy
        >>> annealed = Mixture(
        ...     mixture.weights,
        ...     unit="tokens",
        ...     schedule=[(0, mixture.weights), (0.9, {"wiki": 0.2, "code": 0.8})],
        ...     schedule_unit="fraction",
        ...     policies={"code": SourcePolicy(max_epochs=4, overflow="renormalise")},
        ... )
        >>> annealed.plan_arguments(num_examples=1000)["schedule"][1]
        Segment(start=900, weights=(0.2, 0.8), interpolation='constant')

        ```
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    unit: Unit
    seed: int
    name: str | None
    description: str | None
    license: str | None
    schedule: tuple[Segment, ...] | None
    schedule_unit: ScheduleUnit | None
    budget: tuple[int, Unit] | None
    _policies: tuple[tuple[str, SourcePolicy], ...] = field(repr=False)
    _sources: tuple[tuple[str, Source], ...] = field(repr=False)
    _metadata: str = field(repr=False)

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        unit: Unit,
        seed: int = 0,
        sources: Mapping[str, Source] | None = None,
        schedule: Sequence[Segment | tuple[Any, ...]] | None = None,
        schedule_unit: ScheduleUnit | None = None,
        policies: Mapping[str, SourcePolicy] | None = None,
        budget: tuple[int, Unit] | None = None,
        name: str | None = None,
        description: str | None = None,
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        normalise: bool = False,
    ) -> None:
        if not isinstance(weights, Mapping):
            raise ValueError(
                f"weights is a {type(weights).__name__}; it must map domain names to numbers: "
                'write {"wiki": 0.7, "code": 0.3}'
            )
        names = check_names(weights)
        shares = check_weights(names, tuple(weights.values()), normalise)
        if unit not in UNITS:
            raise ValueError(f"unit={unit!r} is not one of {list(UNITS)}; choose what the weights count")
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed!r} is not an integer in [0, 2**63); choose one, for example seed=0")
        sources = dict(sources or {})
        mixture_rules.check_sources(names, sources)
        for key, text in (("name", name), ("license", license)):
            if text is not None:
                check_text(key, text)
        if description is not None:
            mixture_file.check_description(description)
        segments = None
        if schedule is not None:
            segments = mixture_rules.check_schedule(names, shares, schedule, schedule_unit, normalise=normalise)
        elif schedule_unit is not None:
            raise ValueError(f"schedule_unit={schedule_unit!r} is given without a schedule; give both or neither")
        values = {
            "names": names,
            "shares": shares,
            "unit": unit,
            "seed": int(seed),
            "name": name,
            "description": description,
            "license": license,
            "schedule": segments,
            "schedule_unit": schedule_unit,
            "budget": None if budget is None else mixture_rules.check_budget(budget),
            "_policies": mixture_rules.check_policies(
                names, {} if policies is None else policies, segments or (Segment(0, shares),)
            ),
            "_sources": tuple((key, sources[key]) for key in names if key in sources),
            "_metadata": mixture_file.freeze_metadata(dict(metadata or {})),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        if self.budget is not None:
            from hf_mixture.data.mixture_plan import check_caps

            check_caps(self)

    @classmethod
    def uniform(cls, names: Iterable[str], *, unit: Unit, seed: int = 0) -> Mixture:
        """Build the mixture that gives each domain the same share.

        Args:
            names: The domains.
            unit: What the shares count.
            seed: Seed of the order. Default: 0.

        Returns:
            The mixture.

        Example:
            ```python
            >>> from hf_mixture import Mixture
            >>> Mixture.uniform(["a", "b"], unit="bytes").weights
            {'a': 0.5, 'b': 0.5}

            ```
        """
        return cls.natural(dict.fromkeys(names, 1), unit=unit, seed=seed)

    @classmethod
    def natural(cls, sizes: Mapping[str, float], *, unit: Unit, temperature: float = 1.0, seed: int = 0) -> Mixture:
        """Build the mixture whose shares follow the sizes: q_i^T / sum_j q_j^T.

        Args:
            sizes: Size of each domain, in `unit`.
            unit: What `sizes` and the shares count.
            temperature: The exponent T, >= 0: 1 keeps the natural shares, 0 makes them uniform. Default: 1.
            seed: Seed of the order. Default: 0.

        Returns:
            The mixture; its provenance records a temperature other than 1.

        Raises:
            ValueError: A size is not a number >= 0, all are 0, or `temperature` is not a finite number >= 0.

        Example:
            ```python
            >>> from hf_mixture import Mixture
            >>> Mixture.natural({"a": 900, "b": 300}, unit="tokens").weights
            {'a': 0.75, 'b': 0.25}

            ```
        """
        if not (isinstance(temperature, numbers.Real) and math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature={temperature!r} is not a finite number >= 0; use 1 for the natural shares")
        natural = cls(sizes, unit=unit, seed=seed, normalise=True)
        # An empty domain stays empty at temperature 0, where 0 ** 0 would give it a share.
        weights = {key: share**temperature if share > 0 else 0.0 for key, share in natural.weights.items()}
        if temperature == 1:
            return natural
        provenance = {
            "method": "temperature",
            "parameters": {"temperature": float(temperature)},
            "prior": {"weights": natural.weights},
        }
        return cls(weights, unit=unit, seed=seed, metadata={"provenance": provenance}, normalise=True)

    @property
    def weights(self) -> dict[str, float]:
        """Share of each domain, by name; a new dictionary on each access."""
        return dict(zip(self.names, self.shares, strict=True))

    @property
    def sources(self) -> dict[str, Source]:
        """Where rows come from, by name, for the domains that say so."""
        return dict(self._sources)

    @property
    def policies(self) -> dict[str, SourcePolicy]:
        """Caps, minimum shares and order, by name, for the domains where they are not the default."""
        return dict(self._policies)

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts that are stored and not applied; a new dictionary on each access."""
        return dict(json.loads(self._metadata))

    def __repr__(self) -> str:
        changes = {"schedule": self.schedule, "schedule_unit": self.schedule_unit, "policies": self.policies}
        more = "".join(f", {key}={value!r}" for key, value in changes.items() if value)
        return f"Mixture({self.weights!r}, unit={self.unit!r}, seed={self.seed}{more})"

    def plan_arguments(
        self,
        *,
        num_examples: int | None = None,
        mean_lengths: Mapping[str, float | Mapping[str, float]] | None = None,
    ) -> PlanArguments:
        """Resolve the mixture to the arguments of `MixturePlan.build`: no names, no fractions, no tokens.

        Args:
            num_examples: Length of the stream; needed when the schedule counts fractions.
            mean_lengths: Mean tokens or bytes of an example, by unit: a number for all sources (`{"tokens": 1024}` for
                blocks of 1024 tokens) or a map from name to number. Needed when the schedule counts tokens or bytes.
                Default: from the sizes that the sources record.

        Returns:
            `weights` (K floats), `schedule` (segments that start at positions, or None) and `policies` (one for each
            source, or None).

        Raises:
            ValueError: A length is needed and not known, or a segment is shorter than one example.

        Example:
            ```python
            >>> from hf_mixture import Mixture
            >>> half = {"a": 0.5, "b": 0.5}
            >>> mixture = Mixture(
            ...     half, unit="tokens", schedule=[(0, half), (10240, {"a": 0, "b": 1})], schedule_unit="tokens"
            ... )
            >>> mixture.plan_arguments(mean_lengths={"tokens": 1024})["schedule"][1].start
            10

            ```
        """
        from hf_mixture.data.mixture_plan import plan_arguments

        return plan_arguments(self, num_examples=num_examples, mean_lengths=mean_lengths)

    def to_json(self) -> str:
        """Return the text of `mixture.json`; equal mixtures give equal text, and floats round-trip exactly."""
        return mixture_file.dump(self)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "mixture.json", normalise: bool = False) -> Mixture:
        """Build a mixture from the text of a `mixture.json`.

        Args:
            text: The content of the file.
            where: Name of the file, for error messages.
            normalise: As in the constructor.

        Returns:
            The mixture.

        Raises:
            ValueError: The text is not a valid mixture of format version 1; the message names the field.
        """
        return mixture_file.parse(text, where=where, normalise=normalise)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> str:
        """Write `mixture.json` into a folder, which is created when absent.

        Args:
            save_directory: The folder.

        Returns:
            The path of the file.
        """
        return mixture_file.write(self, save_directory)

    @classmethod
    def from_pretrained(
        cls,
        mixture_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        normalise: bool = False,
    ) -> Mixture:
        """Read a mixture from a folder, a file, or a dataset repository on the Hub. No code is run.

        Args:
            mixture_name_or_path: A folder with a `mixture.json`, such a file, or the id of a *dataset* repository.
            revision: Branch, tag or commit of the repository.
            token: Token for a private repository. Default: the one of the login.
            cache_dir: Where downloads are kept. Default: the cache of the Hub client.
            normalise: As in the constructor.

        Returns:
            The mixture.

        Raises:
            FileNotFoundError: There is no `mixture.json` at that place.
            ValueError: The file is not a valid mixture.

        Example:
            ```python
            >>> import tempfile
            >>> from hf_mixture import Mixture
            >>> mixture = Mixture({"wiki": 0.7, "code": 0.3}, unit="tokens")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = mixture.save_pretrained(folder)
            ...     Mixture.from_pretrained(folder) == mixture
            True

            ```
        """
        path = mixture_file.find(os.fspath(mixture_name_or_path), revision=revision, token=token, cache_dir=cache_dir)
        return mixture_file.read(path, normalise=normalise)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload mixture",
        create_pr: bool = False,
    ) -> str:
        """Upload `mixture.json` and the mixture's section of the dataset card, in one commit.

        The section stands between two markers in `README.md`: what others wrote there stays as it is, and a later push
        replaces the section.

        Args:
            repo_id: A *dataset* repository, created when absent.
            revision: Branch to commit to.
            private: Whether a repository that is created here is private.
            token: Token with write access. Default: the one of the login.
            commit_message: Message of the commit.
            create_pr: Open a pull request instead of committing to the branch.

        Returns:
            The URL of the commit.
        """
        from hf_mixture.data.mixture_hub import push

        return push(
            self,
            repo_id,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
        )
