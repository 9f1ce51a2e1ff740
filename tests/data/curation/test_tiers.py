"""Tiers: expressions over the policy, and what provenance makes of an accepted licence."""

from __future__ import annotations

import itertools
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_mixture.data.curation.licences import find_licences
from hf_mixture.data.curation.rules.files import read_rules
from hf_mixture.data.curation.tiers import TIERS, TierPolicy, assign_tier, max_tier


KNOWN: dict[str, Any] = {"file_level_provenance": True, "government": False}
NONE, GOOD, BAD, UNKNOWN = None, "CC-BY-4.0", "CC-BY-NC-4.0", "NOASSERTION"


@pytest.mark.parametrize(
    ("licence", "tier"),
    [
        ("MIT OR GPL-3.0", "1"),
        ("CC-BY-4.0 AND CC-BY-NC-4.0", None),
        ("(MIT OR GPL-3.0) AND (Apache-2.0 OR CC-BY-NC-4.0)", "1"),
        ("Apache-2.0 WITH LLVM-exception", "1"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", None),
        ("Apache-2.0 WITH Commons-Clause", None),
        ("MIT OR LicenseRef-terms", "1"),
        ("MIT AND LicenseRef-terms", None),
    ],
)
def test_expressions(licence: str, tier: str | None) -> None:
    """OR passes with one accepted member, AND fails with one refused member, exceptions count as their licence."""
    assert assign_tier(licence, **KNOWN).tier == tier


# The table of the docstring of `rules/tier_policy.yaml`, written out: generator, seeds, provenance by file.
SYNTHETIC = {
    (NONE, NONE, True): "1",
    (NONE, NONE, False): "2a",
    (NONE, GOOD, True): "1",
    (NONE, GOOD, False): "2a",
    (NONE, UNKNOWN, True): "2b",
    (NONE, UNKNOWN, False): "2b",
    (NONE, BAD, True): None,
    (NONE, BAD, False): None,
    ("MIT", NONE, True): "2b",
    ("MIT", NONE, False): "2b",
    ("MIT", GOOD, True): "1",
    ("MIT", GOOD, False): "2a",
    ("MIT", UNKNOWN, True): "2b",
    ("MIT", UNKNOWN, False): "2b",
    ("MIT", BAD, True): None,
    ("MIT", BAD, False): None,
    ("llama3", NONE, True): "2b",
    ("llama3", NONE, False): "2b",
    ("llama3", GOOD, True): "2b",
    ("llama3", GOOD, False): "2b",
    ("llama3", UNKNOWN, True): "2b",
    ("llama3", UNKNOWN, False): "2b",
    ("llama3", BAD, True): None,
    ("llama3", BAD, False): None,
}


@pytest.mark.parametrize(
    ("generator", "seeds", "by_file"),
    itertools.product([None, "MIT", "llama3"], [None, GOOD, UNKNOWN, BAD], [True, False]),
)
def test_every_kind_of_provenance(generator: str | None, seeds: str | None, by_file: bool) -> None:
    decided = assign_tier(
        "Apache-2.0", generator_licence=generator, seed_licence=seeds, file_level_provenance=by_file, government=False
    )
    assert decided.tier == SYNTHETIC[generator, seeds, by_file], decided


def test_a_tier_never_rests_on_the_card_alone() -> None:
    """The card's licence is at most tier 2a, and lower where the generator's licence is restricted."""
    finding = find_licences("x", card="apache-2.0")
    assert assign_tier(finding, **KNOWN).tier == "2a"
    assert assign_tier(finding, generator_licence="gemma", seed_licence="MIT", **KNOWN).tier == "2b"
    assert assign_tier(find_licences("x", header="apache-2.0"), **KNOWN).tier == "1"


def test_without_a_licence() -> None:
    assert assign_tier(None, **KNOWN).tier is None
    assert assign_tier(None, seed_licence="CC-BY-4.0", file_level_provenance=False, government=False).tier == "2a"
    assert assign_tier(None, seed_licence="CC-BY-NC-4.0", **KNOWN).tier is None
    assert assign_tier(None, seed_licence="CC-BY-4.0", generator_licence="openai", **KNOWN).tier == "2b"


def test_governments() -> None:
    at_home: dict[str, Any] = {"file_level_provenance": True, "government": True}
    assert assign_tier(None, **at_home).tier == "3"
    assert assign_tier("OGL-UK-3.0", **at_home).tier == "1"
    assert assign_tier("CC-BY-NC-4.0", **at_home).tier is None
    assert assign_tier(find_licences("© 2020. All rights reserved."), **at_home).tier is None
    assert assign_tier(find_licences("Photo: A. Nonymous, CC BY-NC 4.0"), **at_home).tier == "3"


def test_share_alike_is_accepted_and_reported() -> None:
    assert assign_tier("CC-BY-SA-4.0", **KNOWN).reported == ("CC-BY-SA-4.0",)
    assert assign_tier("CC-BY-SA-4.0 AND MPL-2.0 AND MIT", **KNOWN).reported == ("CC-BY-SA-4.0", "MPL-2.0")
    assert assign_tier("CC-BY-SA-4.0 OR MIT", **KNOWN).reported == ()
    assert assign_tier("MIT", generator_licence="MIT", seed_licence="CC-BY-SA-4.0", **KNOWN).reported == (
        "CC-BY-SA-4.0",
    )


def test_max_tier_is_the_highest_of_a_pack() -> None:
    for tiers in itertools.product(TIERS, repeat=3):
        assert max_tier(tiers) == sorted(tiers, key=["1", "2a", "2b", "3"].index)[-1]
    for wrong in ([], ["1", None], ["2"]):
        with pytest.raises(ValueError, match="leave out what was refused"):
            max_tier(wrong)  # type: ignore[arg-type]


def edited(tmp_path: Path, **changes: Any) -> Path:
    document = read_rules("tier_policy") | changes
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_a_policy_of_the_user(tmp_path: Path) -> None:
    document = read_rules("tier_policy")
    strict = document["classes"] | {"share-alike": {"accept": False, "report": False}}
    policy = TierPolicy.from_file(edited(tmp_path, classes=strict, tiers=document["tiers"] | {"government": None}))
    assert assign_tier("CC-BY-SA-4.0", policy=policy, **KNOWN).tier is None
    assert assign_tier(None, file_level_provenance=True, government=True, policy=policy).tier is None
    relaxed = edited(tmp_path, with_exceptions={"GPL-2.0-only WITH Classpath-exception-2.0": "permissive"})
    licence = "GPL-2.0-only WITH Classpath-exception-2.0"
    assert assign_tier(licence, policy=TierPolicy.from_file(relaxed), **KNOWN).tier == "1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "x"}, r"\['format'\].*check that this is a tier policy"),
        ({"version": 2}, "upgrade hf_mixture"),
        ({"licences": {"free": ["MIT"]}}, "licences has the class 'free'"),
        ({"licences": {"permissive": ["MIT"], "reserved": ["MIT"]}}, "MIT stands in 'permissive' and in 'reserved'"),
        ({"licences": {"permissive": ["MITT"]}}, "'MITT' in 'permissive' is no SPDX identifier"),
        ({"with_exceptions": {"MIT": "permissive"}}, "with_exceptions has 'MIT'"),
        ({"tiers": {}}, "is a required property"),
        ({"extra": 1}, "Additional properties"),
    ],
)
def test_a_wrong_policy_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TierPolicy.from_file(edited(tmp_path, **changes))


def test_a_policy_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    text = files("hf_mixture.data.curation.rules").joinpath("tier_policy.yaml").read_text("utf-8")
    path = tmp_path / "policy.yaml"
    path.write_text(text.replace("classes:\n", "classes:\n  permissive: {accept: false, report: false}\n", 1), "utf-8")
    with pytest.raises(ValueError, match=r"policy.yaml is not valid YAML \(the key 'permissive' occurs twice"):
        TierPolicy.from_file(path)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="government='yes' is a str; it must be True or False"):
        assign_tier("MIT", file_level_provenance=True, government="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data_licence is a list"):
        assign_tier(["MIT"], **KNOWN)  # type: ignore[arg-type]
