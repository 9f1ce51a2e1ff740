from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hf_mixture.training.strict import apply_override, build, parse_overrides, parse_yaml


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    rates: list[float] = field(default_factory=list)
    extra: Inner | None = None


def test_yaml_reads_exponents_as_numbers() -> None:
    assert parse_yaml("[1e-3, 1E3, .5e2, -2e-1, 1.5, 3]") == [0.001, 1000.0, 50.0, -0.2, 1.5, 3]
    assert parse_yaml("[1e, e3, 1e-3x]") == ["1e", "e3", "1e-3x"]


@pytest.mark.parametrize("text", ["a: 1\na: 2", "b: {a: 1, a: 2}"])
def test_a_repeated_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="'a' occurs twice"):
        parse_yaml(text)


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(ValueError, match="not valid YAML"):
        parse_yaml("!!python/object/apply:os.getcwd []")


def test_build_converts_and_nests() -> None:
    made = build(Outer, {"name": "a", "inner": {"rate": 1}, "rates": [1, 2.5], "extra": {"rate": 0.5, "steps": 3}}, "")
    assert made == Outer(name="a", inner=Inner(rate=1.0), rates=[1.0, 2.5], extra=Inner(rate=0.5, steps=3))
    assert isinstance(made.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "a", "inner": {"rate": 1, "step": 2}}, "unknown key 'step' in inner; did you mean 'steps'"),
        ({"name": "a", "inner": {"rate": 1}, "zzz": 2}, "unknown key 'zzz' in the recipe; the keys are"),
        ({"name": "a", "inner": {}}, "inner has no 'rate'"),
        ({"name": "a", "inner": 3}, "inner is 3; it must be a mapping"),
        ({"name": 3, "inner": {"rate": 1}}, "name is 3 of type int; it must be of type str"),
        ({"name": "a", "inner": {"rate": "fast"}}, "inner.rate is 'fast'"),
        ({"name": "a", "inner": {"rate": 1, "steps": True}}, "inner.steps is True"),
        ({"name": "a", "inner": {"rate": True}}, "inner.rate is True"),
        ({"name": "a", "inner": {"rate": 1}, "rates": [1, "x"]}, r"rates\[1\] is 'x'"),
        ({"name": "a", "inner": {"rate": 1}, "rates": 3}, "rates is 3 of type int; it must be of type list"),
    ],
)
def test_build_refuses(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(Outer, values, "")


def test_overrides_replace_and_create() -> None:
    values: dict[str, object] = {"a": {"b": 1, "c": 2}, "d": None}
    apply_override(values, "a.b", 5)
    apply_override(values, "d.e", 6)
    apply_override(values, "f", {"g": 7})
    assert values == {"a": {"b": 5, "c": 2}, "d": {"e": 6}, "f": {"g": 7}}
    with pytest.raises(ValueError, match=r"'a\.b' is 5, not a mapping"):
        apply_override(values, "a.b.c", 1)


@pytest.mark.parametrize("words", [["seed", "3"], ["--seed"], ["--", "3"]])
def test_malformed_overrides_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="override"):
        parse_overrides(words)


def test_an_override_that_is_not_yaml_is_named() -> None:
    with pytest.raises(ValueError, match=r"^the value of --a\.b is not valid YAML"):
        parse_overrides(["--seed", "3", "--a.b", "[1"])


def test_override_values_are_yaml() -> None:
    words = ["--a", "-1", "--b.c=[1, x]", "--d=null", "--e", "1e-3", "--f=a=b"]
    assert parse_overrides(words) == [("a", -1), ("b.c", [1, "x"]), ("d", None), ("e", 0.001), ("f", "a=b")]
