"""The recipe of a curation: a YAML file with a format version, checked against a JSON schema.

Every name is checked: an unknown one is an error, so that a misspelt threshold never means the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hf_mixture.data.curation.decontaminate import DecontaminationOptions
from hf_mixture.data.curation.inclusion import InclusionOptions
from hf_mixture.data.curation.keys import DedupOptions
from hf_mixture.data.curation.language import LanguageOptions
from hf_mixture.data.curation.packing import PackingOptions
from hf_mixture.data.curation.pii import PiiOptions
from hf_mixture.data.curation.quality import QualityOptions
from hf_mixture.data.curation.reading import CANONICAL, Limits
from hf_mixture.data.curation.record import FACTS, FLAGS, SIGNALS
from hf_mixture.data.curation.safety import SafetyOptions
from hf_mixture.data.curation.schema import Count, Name, Number, Positive, build, check, schema_of
from hf_mixture.data.curation.tiering import TierOptions
from hf_mixture.hub.damage import naming
from hf_mixture.hub.reading import parse_yaml


FORMAT = "hf_mixture_curation"
VERSION = 1
OPTIONAL_STAGES = ("safety", "language", "quality", "pii", "dedup")


@dataclass(frozen=True, kw_only=True)
class CuratedSource:
    """One source of documents, and what is known about all of them.

    Args:
        path: As in `hf_mixture.data.Source`: a Hub id, a file or folder, or `installed:<domain>`. Default: none; the
            data set is passed to `curate`.
        config: Configuration of the data set.
        data_dir: As in `datasets.load_dataset`.
        data_files: As in `datasets.load_dataset`.
        split: The split. Default: `train`.
        revision: Commit, branch or tag of a Hub data set.
        streaming: Whether it is read as an `IterableDataset`. Default: false.
        columns: For `text`, `id` and each fact or signal of the record the column that holds it. Default: `text` from
            `text`. Without `id`, a document is named by the hash of its row.
        facts: What holds for every document that does not say otherwise: `license` (what is stated for each
            document), `card_license` (what the card of its data set says, which alone is no licence of a file), `url`,
            `source_dataset`, `source_revision`, `retrieved_at`, `generator_model`, `generator_license`,
            `seed_license`, the flags `government` and `file_level_provenance`, and the texts `robots_txt`, `ai_txt`,
            `tdmrep`, `http_headers` and `html_head`.
        skip: Stages that this source does not go through: any of `safety`, `language`, `quality`, `pii`, `dedup` and
            `decontamination`.
        max_rows: Rows that are read. Default: all.
    """

    path: str | None = None
    config: str | None = None
    data_dir: str | None = None
    data_files: Any = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = False
    columns: dict[str, str] = field(default_factory=lambda: {"text": "text"})
    facts: dict[str, Any] = field(default_factory=dict)
    skip: list[str] = field(default_factory=list)
    max_rows: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The options of every stage; null leaves an optional one out.

    Args:
        inclusion: Which domains, licences and reservations of rights.
        tier: From which facts a tier follows.
        safety: Flagged words and spam.
        language: Which languages.
        quality: What reads like text.
        pii: Personal data.
        dedup: What counts as a duplicate.
        decontamination: Benchmarks. Default: none, because they must be named.
    """

    inclusion: InclusionOptions = field(default_factory=InclusionOptions)
    tier: TierOptions = field(default_factory=TierOptions)
    safety: SafetyOptions | None = field(default_factory=SafetyOptions)
    language: LanguageOptions | None = field(default_factory=LanguageOptions)
    quality: QualityOptions | None = field(default_factory=QualityOptions)
    pii: PiiOptions | None = field(default_factory=PiiOptions)
    dedup: DedupOptions | None = field(default_factory=DedupOptions)
    decontamination: DecontaminationOptions | None = None


@dataclass(frozen=True, kw_only=True)
class MixingOptions:
    """How the documents of a configuration are mixed, after everything else has changed their proportions.

    Args:
        weights: Share of each source. Those without documents in a configuration leave their share to the others.
        unit: What the shares count: `tokens`, `bytes` or `examples`. Default: `tokens`.
        stopping_strategy: `first_exhausted` ends before a document would repeat, `all_exhausted` when all were seen.
            Default: `first_exhausted`.
    """

    weights: dict[str, Positive]
    unit: Literal["tokens", "bytes", "examples"] = "tokens"
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """What the published data set says about itself.

    Args:
        title: Heading of the card. Default: the name of the recipe.
        repo_id: Where `hf-mixture curate --push` puts it. Default: nowhere.
        private: Whether that repository is private. Default: false.
        license_name: Name of the licence for the Hub when several are inside. Default: `mixed-by-tier`.
        languages: Codes of the languages, for the Hub. Default: none.
    """

    title: str | None = None
    repo_id: str | None = None
    private: bool = False
    license_name: str = "mixed-by-tier"
    languages: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class CurationRecipe:
    """A curation: sources, stages, mixture, packing, publication.

    Args:
        name: Name of the data set.
        sources: Where documents come from, by name.
        description: One paragraph for the card.
        output_dir: Where everything is written. Default: `curate` must be told.
        seed: Seed of the order of the mixture. Default: 0.
        shard_rows: Rows that are worked on, and lost by a kill, together. Default: 2000.
        rows_per_file: Rows of a published file. Default: 20,000.
        tokenizer: Hub id or folder of the tokenizer that counts tokens. Default: none; words and punctuation marks
            are counted.
        limits: What is still a document.
        stages: The options of the stages.
        mixture: Shares of the sources. Default: none; every document occurs once.
        packing: How documents are joined. Default: not at all.
        publish: What the card says.

    Example:
        >>> from hf_mixture import CurationRecipe
        >>> recipe = CurationRecipe.from_yaml('''
        ... format: hf_mixture_curation
        ... version: 1
        ... name: notes
        ... sources: {notes: {facts: {license: CC0-1.0}}}
        ... stages: {quality: {min_chars: 20}}
        ... ''')
        >>> recipe.stages.quality.min_chars, recipe.stages.decontamination
        (20, None)
    """

    name: str
    sources: dict[Name, CuratedSource]
    description: str = ""
    output_dir: str | None = None
    seed: Number = 0
    shard_rows: Count = 2000
    rows_per_file: Count = 20_000
    tokenizer: str | None = None
    limits: Limits = field(default_factory=Limits)
    stages: Stages = field(default_factory=Stages)
    mixture: MixingOptions | None = None
    packing: PackingOptions | None = None
    publish: PublishOptions = field(default_factory=PublishOptions)

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_yaml(cls, text: str) -> CurationRecipe:
        """Read a recipe.

        Args:
            text: The YAML text.

        Returns:
            The checked recipe.

        Raises:
            ValueError: The text is not YAML, a key is unknown or missing, or a value breaks a rule.
        """
        return cls.from_dict(parse_yaml(text, "the recipe"))

    @classmethod
    def from_file(cls, path: str | Path) -> CurationRecipe:
        """Read a recipe from a file.

        Args:
            path: The YAML file.

        Returns:
            The checked recipe.
        """
        with naming(path):
            return cls.from_yaml(Path(path).read_text(encoding="utf-8"))

    @classmethod
    def from_dict(cls, values: Any) -> CurationRecipe:
        """Build a recipe from plain data, `format` and `version` included.

        Args:
            values: What the YAML file holds.

        Returns:
            The checked recipe.

        Raises:
            ValueError: A key is unknown or missing, or a value breaks a rule.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"the recipe is {values!r}; it must map keys to values")
        if values.get("format") != FORMAT or values.get("version") != VERSION:
            raise ValueError(
                f"the recipe has format {values.get('format')!r} and version {values.get('version')!r}; this release "
                f"reads format: {FORMAT}, version: {VERSION}"
            )
        check(values, schema(), "the recipe")
        rest = {key: value for key, value in values.items() if key not in ("format", "version")}
        return build(cls, rest)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data, every default written out."""
        return {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}

    def to_yaml(self) -> str:
        """Return the text of the recipe, every default written out."""
        import yaml

        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe."""
    schema = schema_of(CurationRecipe)
    head = {"format": {"const": FORMAT}, "version": {"const": VERSION}}
    return schema | {"properties": head | schema["properties"], "required": [*head, *schema["required"]]}


def _check(recipe: CurationRecipe) -> None:
    """Raise ValueError where values that are fine alone do not fit together."""
    facts = (*FACTS, *FLAGS, *SIGNALS)
    stages = (*OPTIONAL_STAGES, "decontamination")
    if not recipe.sources:
        raise ValueError("sources is empty; name at least one")
    for name, source in recipe.sources.items():
        where = f"sources.{name}"
        for key, given, allowed in (
            ("columns", source.columns, CANONICAL),
            ("facts", source.facts, facts),
            ("skip", source.skip, stages),
        ):
            if unknown := [entry for entry in given if entry not in allowed]:
                raise ValueError(f"{where}.{key} has {unknown[0]!r}; it may have {', '.join(allowed)}")
        if "text" not in source.columns:
            raise ValueError(f"{where}.columns has no 'text'; name the column with the text")
        for key, value in source.facts.items():
            wanted = bool if key in FLAGS else str
            if not isinstance(value, wanted):
                raise ValueError(
                    f"{where}.facts.{key}={value!r} is not of type {wanted.__name__}; quote or correct it"
                )
    mixture = recipe.mixture
    if mixture is not None:
        if set(mixture.weights) != set(recipe.sources):
            different = sorted(set(mixture.weights) ^ set(recipe.sources))
            raise ValueError(f"mixture.weights and sources differ in {different}; give every source a weight, or 0")
        from hf_mixture.data.mixture import Mixture

        Mixture(mixture.weights, unit=mixture.unit, normalise=True)
    safety = recipe.stages.safety
    if safety is not None and (unknown := [name for name in safety.encyclopedic if name not in recipe.sources]):
        raise ValueError(f"stages.safety.encyclopedic has {unknown[0]!r}, which is no source")
    decontamination = recipe.stages.decontamination
    if decontamination is not None and not decontamination.benchmarks:
        raise ValueError("stages.decontamination.benchmarks is empty; name at least one, or leave the stage out")
