"""`hf-mixture mote`, from prompts in a file to baked weights, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import run_card
from tiny_facts import WORDS, prompts, save, word_tokenizer
from transformers import AutoModelForCausalLM

from hf_mixture.cli.main import main
from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.mote.auto import AutoMoTE
from hf_mixture.moe.mote.edits import ExpertEdits


BEHAVIOUR = json.dumps({"name": "phrases", "classes": {"low": [f"{word} " for word in WORDS[:14]]}, "default": "high"})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("mote") / "model")


def write_prompts(path: Path, num: int, seed: int, **columns: list[str]) -> str:
    texts = prompts(num, seed)
    rows = [{"prompt": text, **{k: v[place] for k, v in columns.items()}} for place, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def run(*words: object) -> int:
    return main(["mote", *map(str, words)])


@pytest.fixture(scope="module")
def scanned(model: Path) -> Path:
    labels = ["low", "low", "high", "low", "high", "high"] * 3
    topics = ["a", "b", "b", "a", "b", "a"] * 3
    file = write_prompts(model.parent / "scan.jsonl", 18, 0, label=labels, topic=topics)
    folder = model.parent / "scan"
    assert run("scan", model, "--prompts", file, "--output", folder, "--batch-size", 7) == 0
    return folder


def test_the_way_from_prompts_to_weights(
    model: Path, scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("rank", scanned, "--target", "low", "--top", 3, "--draws", 200, "--json") == 0
    ranked = json.loads(capsys.readouterr().out)
    assert [set(expert) for expert in ranked["experts"]] == [{"router", "layer", "expert", "score", "stability"}] * 3
    assert run("rank", scanned, "--target", "low", "--top", 3, "--draws", 200) == 0
    assert "share of 200 draws" in capsys.readouterr().out

    edits_folder = tmp_path / "edits"
    assert run("apply", scanned, "--target", "low", "--top", 2, "--mode", "zero", "--output", edits_folder) == 0
    said = capsys.readouterr().out
    assert "2 edits (off, zero) written to" in said
    assert "control of the topic written to" in said
    names = {path.name for path in edits_folder.iterdir()}
    assert names == {"expert_edits.json", "ftri.safetensors", "experts.png", "README.md", "topic_control"}
    edits = ExpertEdits.from_pretrained(edits_folder)
    found = [(edit.module, edit.expert) for edit in edits.edits]
    assert found == [(expert["router"], expert["expert"]) for expert in ranked["experts"][:2]]
    assert edits.provenance["num_prompts"] == {"high": 9, "low": 9}
    control = ExpertEdits.from_pretrained(edits_folder / "topic_control")
    assert (len(control), control.mode, control.scores["topic"]) == (2, "zero", "a")

    file = write_prompts(
        tmp_path / "eval.jsonl",
        8,
        1,
        group=["one"] * 5 + ["two"] * 3,
        expected=["w1"] * 8,
    )
    words: list[Any] = ["eval", model, edits_folder, "--prompts", file, "--behaviour", BEHAVIOUR, "--target", "low"]
    words += ["--max-new-tokens", 2, "--output", tmp_path / "eval"]
    assert run(*words, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results["conditions"]) == ["unedited", "edits", "random", "topic control"]
    assert results["conditions"]["random"]["one"]["sd"]["accuracy"] is not None
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {
        "measured.json",
        "results.json",
        "comparison.png",
        "report.md",
    }
    card = (edits_folder / "README.md").read_text(encoding="utf-8")
    assert "comparison.png" in card
    assert "| topic control |" in card
    # Again: nothing is measured a second time, and another setting is refused.
    before = (tmp_path / "eval" / "measured.json").stat().st_mtime_ns
    assert run(*words) == 0
    assert (tmp_path / "eval" / "measured.json").stat().st_mtime_ns == before
    assert run(*words, "--seed", 1) == 2
    assert "holds another evaluation" in capsys.readouterr().err

    assert run("bake", model, edits_folder, "--output", tmp_path / "baked") == 0
    assert "exact" in capsys.readouterr().out
    ids = torch.tensor([word_tokenizer()("w3 w4 w5")["input_ids"]])
    with torch.no_grad():
        baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")(ids).logits
        tuned = AutoMoTE.from_pretrained(edits_folder, base_model=str(model))(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(model)(ids).logits
    assert torch.equal(baked, tuned)
    assert not torch.equal(baked, plain)


def test_a_scan_classifies_what_the_model_says(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_prompts(tmp_path / "prompts.jsonl", 12, 0)
    (tmp_path / "behaviour.json").write_text(BEHAVIOUR, encoding="utf-8")
    words: list[Any] = ["scan", model, "--prompts", file, "--max-new-tokens", 3, "--output", tmp_path / "scan"]
    assert run(*words, "--behaviour", tmp_path / "behaviour.json") == 0
    lines = (tmp_path / "scan" / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["prompt"] for row in rows] == prompts(12, 0)
    assert sorted({row["label"] for row in rows}) == ["empty", "high", "low"]
    for row in rows:
        said = row["response"].split()
        low = any(word in WORDS[:14] for word in said[:-1])
        assert row["label"] == ("empty" if not said else "low" if low else "high")
    assert "one prompt alone has the label: empty" in capsys.readouterr().out
    # Without topics there is no control, and it says so.
    assert run("apply", tmp_path / "scan", "--target", "low", "--top", 1, "--output", tmp_path / "edits") == 0
    assert not (tmp_path / "edits" / "topic_control").exists()


def test_experts_that_are_named_are_edited_without_a_scan(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = next(router.layer for router in find_routers(AutoModelForCausalLM.from_pretrained(model)))
    folder = tmp_path / "edits"
    assert run("edit", model, "--off", f"{layer}:1", f"{layer}:3", "--output", folder) == 0
    assert (
        f"2 edits (reroute)  {folder / 'expert_edits.json'}\ncard  {folder / 'README.md'}" in capsys.readouterr().out
    )
    edits = ExpertEdits.from_pretrained(folder)
    assert [(edit.layer, edit.expert, edit.op) for edit in edits.edits] == [(layer, 1, "off"), (layer, 3, "off")]
    assert edits.fingerprint is not None
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"Made with `hf-mixture mote edit {model.name} --off {layer}:1 {layer}:3" in card
    assert "| 3 | off |" in card
    assert str(tmp_path) not in card
    run_card(folder)
    ids = torch.tensor([word_tokenizer()("w3 w4 w5")["input_ids"]])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(model)(ids).logits
        assert not torch.equal(AutoMoTE.from_pretrained(folder, base_model=str(model))(ids).logits, plain)
    path = edits.edits[0].module
    assert run("edit", model, "--on", f"{path}:0", "--output", tmp_path / "forced") == 0
    assert ExpertEdits.from_pretrained(tmp_path / "forced").mode == "force"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to edit"),
        (["--off", "3-1"], "'3-1' is not LAYER:EXPERT"),
        (["--off", "99:1"], "'99:1': no router in layer 99; the layers with experts are"),
        (["--off", "LAYER:99"], "99"),
        (["--off", *[f"LAYER:{expert}" for expert in range(8)]], "experts"),
    ],
)
def test_edits_that_the_model_cannot_have_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    layer = next(router.layer for router in find_routers(AutoModelForCausalLM.from_pretrained(model)))
    given = [word.replace("LAYER", str(layer)) for word in words]
    assert run("edit", model, *given, "--output", tmp_path / "edits") == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "edits").exists()


def test_errors_are_one_line(model: Path, scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_prompts(tmp_path / "plain.jsonl", 4, 0)
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "w1"}\n', encoding="utf-8")
    for words, message in (
        (["scan", model, "--prompts", file, "--output", tmp_path / "x"], "the prompts have no column 'label'"),
        (["scan", model, "--prompts", other, "--output", tmp_path / "x"], "it needs 'prompt' or 'messages'"),
        (["scan", model, "--prompts", tmp_path / "no.jsonl", "--output", tmp_path / "x"], "is no file here"),
        (["scan", model, "--prompts", model / "config.txt", "--output", tmp_path / "x"], "no dataset of that name"),
        (
            ["scan", model, "--prompts", file, "--behaviour", "{", "--output", tmp_path / "x"],
            "--behaviour '{' is not valid JSON",
        ),
        (
            ["scan", tmp_path / "none", "--prompts", file, "--behaviour", BEHAVIOUR, "--output", tmp_path / "x"],
            "cannot be loaded",
        ),
        (
            ["scan", model, "--prompts", file, "--behaviour", BEHAVIOUR, "--output", scanned],
            "holds a scan with other settings",
        ),
        (["rank", tmp_path, "--target", "low"], "`hf-mixture mote scan` writes it"),
        (["rank", scanned, "--target", "middle"], "target='middle' is no class of these maps; they have high, low"),
        (["rank", scanned, "--target", "low", "--top", 99], "top=99 must be from 1 to 16"),
        (["apply", scanned, "--target", "low", "--op", "scale", "--output", tmp_path / "y"], "value"),
        (["bake", model, scanned, "--output", tmp_path / "z"], "has no expert_edits.json"),
        (["bake", model, scanned, "--output", scanned], "exists; name a new folder"),
    ):
        assert run(*words) == 2, words
        error = capsys.readouterr().err
        assert message in error, error
        assert error.splitlines()[-1].startswith("error: ")
    assert not any((tmp_path / name).exists() for name in "xyz")


def test_reroute_cannot_be_baked_into_a_family_without_bias(
    model: Path, scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("apply", scanned, "--target", "low", "--top", 1, "--output", tmp_path / "edits") == 0
    assert run("bake", model, tmp_path / "edits", "--output", tmp_path / "baked") == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "baked").exists()
