"""Edits as values, and `expert_edits.json`: what is written, and what is refused with which words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_double import running_hub
from moe_families import build_tiny_moe

from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits


GATE = "model.layers.1.mlp.gate"
FULL = ExpertEdits(
    [ExpertEdit(GATE, 3, "off", layer=1), ExpertEdit(GATE, 4, "scale", 0.5), ExpertEdit(GATE, 5, "bias", -1.25)],
    mode="zero_renorm",
    force_weight="own",
    base_model_name_or_path="me/model",
    model_type="qwen3_moe",
    num_experts={GATE: 8},
    top_k={GATE: 2},
    fingerprint="sha256:" + "0" * 64,
    scores={"ranking": [{"module": GATE, "expert": 3, "score": 2.5}]},
    provenance={"dataset": "düsseldorf", "num_prompts": {"high": 3}},
)


def document(**changes: Any) -> str:
    content = json.loads(FULL.to_json()) | changes
    return json.dumps({key: value for key, value in content.items() if value is not ...})


def test_a_file_holds_everything_and_is_the_same_each_time(tmp_path: Path) -> None:
    path = FULL.save_pretrained(tmp_path / "edits")
    assert Path(path).name == "expert_edits.json"
    text = Path(path).read_text(encoding="utf-8")
    assert text == FULL.to_json()
    assert text.endswith("}\n")
    assert "düsseldorf" in text
    written = json.loads(text)
    assert (written["format"], written["version"]) == ("hf_mixture.expert_edits", 1)
    assert written["edits"][0] == {"module": GATE, "expert": 3, "op": "off", "layer": 1}
    for place in (tmp_path / "edits", path):
        assert ExpertEdits.from_pretrained(place) == FULL
    assert ExpertEdits.from_json(json.dumps(FULL.to_dict())) == FULL
    assert ExpertEdits.from_pretrained(tmp_path / "edits").to_json() == text


def test_keys_of_extensions_are_let_through() -> None:
    assert ExpertEdits.from_json(document(x_note={"a": 1})) == FULL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FULL.to_json()[:200], "is not valid JSON"),
        ("[]", r"top level=\[\]: expert edits are a JSON object"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (document(version=2), r"version=2 is newer than 1, .*upgrade"),
        (document(format="hf_mixture.mixture"), "format='hf_mixture.mixture': it must be"),
        (document(edits=...), "'edits' is missing"),
        (document(mode="mask"), "mode='mask': it must be reroute"),
        (document(fingerprint="sha256:12"), "fingerprint='sha256:12': it must be null or"),
        (document(threshold=1), "unknown key 'threshold'"),
        (document(edits=[{"module": GATE, "expert": 3}]), r"edits\[0\]: 'op' is missing"),
        (
            document(edits=[{"module": GATE, "expert": -1, "op": "off"}]),
            r"edits\[0\].expert=-1: it must be an integer",
        ),
        (document(edits=[{"module": GATE, "expert": 1.5, "op": "off"}]), r"edits\[0\].expert=1.5"),
        (document(edits=[{"module": GATE, "expert": 1, "op": "off", "weight": 1}]), "unknown key 'weight'"),
        (document(edits=[{"module": GATE, "expert": 1, "op": "scale"}]), "op='scale' needs a number"),
        (document(num_experts={GATE: 0}), "num_experts"),
        (
            '{"format": "hf_mixture.expert_edits", "version": 1, "mode": "reroute", "edits": NaN}',
            "NaN is not a JSON number",
        ),
    ],
)
def test_files_that_are_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertEdits.from_json(text, where="here.json")


def test_a_file_that_is_too_large_or_missing(tmp_path: Path) -> None:
    with (tmp_path / "expert_edits.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ValueError, match=r"68157440 bytes; edits have at most"):
        ExpertEdits.from_pretrained(tmp_path)
    os.remove(tmp_path / "expert_edits.json")
    with pytest.raises(FileNotFoundError, match=r"has no expert_edits\.json"):
        ExpertEdits.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither a folder or file here nor a repository id"):
        ExpertEdits.from_pretrained(tmp_path / "no such folder")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; it must be a folder"):
        FULL.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, float("inf")])
def test_what_is_no_json_is_not_written(value: Any, tmp_path: Path) -> None:
    FULL.save_pretrained(tmp_path)
    broken = ExpertEdits(FULL.edits, mode=FULL.mode, scores={"a": value})
    with pytest.raises(ValueError, match="scores or provenance is not plain JSON"):
        broken.save_pretrained(tmp_path)
    assert ExpertEdits.from_pretrained(tmp_path) == FULL


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("", 0, "off"), "module='' must be the path of a router"),
        ((GATE, -1, "off"), "expert=-1 of .* must be an integer >= 0"),
        ((GATE, True, "off"), "expert=True"),
        ((GATE, 0, "mute"), "op='mute' of expert 0 .* must be one of off, on, scale, bias"),
        ((GATE, 0, "scale"), "op='scale' needs a number"),
        ((GATE, 0, "off", 1.0), "op='off' takes none"),
        ((GATE, 0, "bias", float("nan")), "must be a finite number"),
        ((GATE, 0, "scale", -0.5), "op='scale' needs a number >= 0"),
        ((GATE, 0, "scale", True), "must be a finite number"),
        ((GATE, 0, "off", None, -1), "layer=-1"),
    ],
)
def test_single_edits_that_make_no_sense(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertEdit(*fields)


@pytest.mark.parametrize(
    ("edits", "fields", "message"),
    [
        ([(GATE, 0, "off"), (GATE, 0, "off")], {}, "op='off' of expert 0 .* is given twice"),
        ([(GATE, 0, "off"), (GATE, 0, "on")], {}, "op='off' and op='on', which contradict"),
        ([(GATE, 0, "off"), (GATE, 0, "scale", 2.0)], {}, "contradict"),
        ([(GATE, 0, "on"), (GATE, 0, "bias", 1.0)], {}, "contradict"),
        ([(GATE, 0, "off")], {"mode": "force"}, "mode='force' takes only op='on'"),
        ([(GATE, 0, "off")], {"mode": "mute"}, "mode='mute' must be one of"),
        ([(GATE, 0, "on")], {"force_weight": "most"}, "force_weight='most' must be one of"),
        ([(GATE, 0, "on")], {"force_weight": "const"}, "needs a value with force_weight='const'"),
        ([(GATE, 0, "on", 0.5)], {"force_weight": "max"}, "takes none otherwise"),
    ],
)
def test_edits_that_do_not_go_together(edits: list[Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertEdits([ExpertEdit(*edit) for edit in edits], **fields)


def test_what_goes_together() -> None:
    mixed = [ExpertEdit(GATE, 0, "on"), ExpertEdit(GATE, 0, "scale", 2.0), ExpertEdit("other", 0, "off")]
    edits = ExpertEdits(mixed)
    assert edits.by_module() == {GATE: mixed[:2], "other": mixed[2:]}
    assert len(edits) == 3
    with pytest.raises(TypeError, match="holds a dict"):
        ExpertEdits([{"module": GATE, "expert": 0, "op": "off"}])


def test_the_first_of_a_ranking_with_what_they_are_for() -> None:
    model = build_tiny_moe("qwen3_moe").model
    ranked = [SimpleNamespace(path=GATE, layer=1, expert=e, score=3.0 - e) for e in (0, 2, 5)]
    edits = ExpertEdits.from_ranking(iter(ranked), top=2, model=model, provenance={"a": 1})
    assert [(edit.expert, edit.op, edit.layer) for edit in edits.edits] == [(0, "off", 1), (2, "off", 1)]
    assert edits.model_type == "qwen3_moe"
    assert edits.num_experts == {f"model.layers.{i}.mlp.gate": 8 for i in range(4)}
    assert edits.scores["ranking"][1] == {"module": GATE, "expert": 2, "score": 1.0}
    with pytest.raises(ValueError, match="top=4 is more than the 3 experts"):
        ExpertEdits.from_ranking(ranked, top=4)
    with pytest.raises(ValueError, match="top=0 must be >= 1"):
        ExpertEdits.from_ranking(ranked, top=0)


SCRIPT = """
import sys
from hf_mixture import ExpertEdits
edits = ExpertEdits.from_pretrained(sys.argv[1])
print(edits.push_to_hub("tester/edits", folder=sys.argv[1], private=True))
again = ExpertEdits.from_pretrained("tester/edits")
assert again == edits and len(again) == 3
for name, options in (("tester/none", {}), ("tester/edits", {"revision": "nowhere"})):
    try:
        ExpertEdits.from_pretrained(name, **options)
    except FileNotFoundError as error:
        assert "check the name" in str(error), error
    else:
        raise AssertionError(name)
"""


@pytest.mark.slow
def test_to_the_hub_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "edits"
    FULL.save_pretrained(folder)
    for name in ("README.md", "map.png", "secret.txt"):
        (folder / name).write_text(name, encoding="utf-8")
    with running_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder)],
            env=hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "tester/edits" in done.stdout
        files = set(hub.store.files("model", "tester/edits"))
    assert {"expert_edits.json", "README.md", "map.png"} <= files
    assert "secret.txt" not in files
