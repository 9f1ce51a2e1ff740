"""`hf-mixture curate` from documents to data set and models, through the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from cards import run_card
from curation_data import draws, text

from hf_mixture import CuratedDataset
from hf_mixture.cli.main import main
from hf_mixture.training.curation.recipe import resolve_curate
from hf_mixture.training.resolve import find_recipe


def recipe(folder: Path, **more: Any) -> Path:
    """A recipe with two small sources in files, and models of a second."""
    rng = draws(7)
    for name in ("plain", "made"):
        rows = [json.dumps({"text": text(rng, 12), "id": f"{name}/{index}"}) for index in range(80)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    columns = {"text": "text", "id": "id"}
    values = {
        "format": "hf_mixture_curation",
        "version": 1,
        "name": "tiny",
        "output_dir": str(folder / "run"),
        "sources": {
            "plain": {
                "path": str(folder / "plain.jsonl"),
                "columns": columns,
                "facts": {"license": "CC0-1.0", "file_level_provenance": True},
            },
            "made": {"path": str(folder / "made.jsonl"), "columns": columns, "facts": {"card_license": "MIT"}},
        },
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


TRAINING = {
    "tokenizer": {"train_bpe": {"vocab_size": 257}},
    "model": {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "arguments": {"max_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True, "learning_rate": 1e-2},
    "seeds": [0, 1],
    "block_size": 32,
    "evaluation": {"test_bytes": 1500, "validation_bytes": 1000, "document_bytes": 500},
}


def test_curation_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path)
    assert main(["curate", str(path), "--dry-run"]) == 0
    assert "plain.jsonl, licence CC0-1.0" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(["curate", str(path), "--stages.quality.min_chars", "50"]) == 0
    curated = CuratedDataset(tmp_path / "run")
    assert curated.configurations == ("tier1", "tier1_2a")
    run_card(tmp_path / "run" / "dataset")
    assert curated.report["sources"]["plain"]["read"] == 80
    assert "| plain | 80 | 80 |" in capsys.readouterr().out
    assert main(["curate", str(path), "--stages.quality.min_chars", "50"]) == 2
    assert "resume it" in capsys.readouterr().err
    assert main(["curate", str(path), "--stages.quality.min_chars", "50", "--resume"]) == 0


def test_mistakes_are_said_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, training=TRAINING)
    for words, said in (
        (["--stages.qualty.min_chars", "3"], "did you mean 'quality'"),
        (["--training.stepz", "3"], "unknown key 'stepz' in training"),
        (["--training.arguments.max_steps", "0"], "max_steps is 0"),
        (["--training.held_out", "0.7"], "must lie in (0, 0.5)"),
        (["--push"], "the recipe has no publish.repo_id"),
        (["--push", "me//text"], "the repository to publish to is 'me//text': Repo id must be"),
        (["--sources.plain.path", str(tmp_path / "absent.jsonl")], "absent.jsonl"),
    ):
        assert main(["curate", str(path), *words]) == 2
        assert said in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("curated/*"))
    assert main(["train", str(path)]) == 2
    assert "hf-mixture curate" in capsys.readouterr().err


def test_the_command_that_continues_has_every_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_mixture.data.curation.pipeline._Run.process", stop)
    words = ["curate", str(recipe(tmp_path)), "--num-proc", "2", "--push", "me/text"]
    assert main(words) == 130
    said = f"interrupted; continue with: {shlex.join(['hf-mixture', *words, '--resume'])}\n"
    assert capsys.readouterr().err.endswith(said)


def test_models_of_the_strictest_tier_and_of_all_tiers(tmp_path: Path) -> None:
    path = recipe(tmp_path, training=TRAINING, mixture={"weights": {"plain": 0.5, "made": 0.5}})
    assert main(["curate", str(path)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    strict, wide = results["systems"]
    assert (strict["name"], wide["name"]) == ("tier1", "tier1_2a")
    assert strict["weights"] == {"made-tier2a": 0.0, "plain-tier1": 1.0}
    assert wide["weights"] == {"made-tier2a": 0.5, "plain-tier1": 0.5}
    assert set(strict["test_bits_per_byte"]) == {"made-tier2a", "plain-tier1", "mean"}
    assert len(strict["runs"]) == 2
    assert all(0 < value < 10 for value in wide["test_bits_per_byte"].values())
    assert (tmp_path / "run" / "comparison.png").stat().st_size > 5000
    assert "## Documents" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert main(["curate", str(path), "--resume"]) == 0
    again = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert again["systems"] == results["systems"]


def test_the_packaged_recipe_and_its_smoke_section_are_valid() -> None:
    text = find_recipe("curate_local")
    whole, small = resolve_curate(text), resolve_curate(text, smoke=True)
    assert list(whole.recipe.sources) == ["docs", "python", "book", "speeches", "mail"]
    assert list(small.recipe.sources) == ["docs", "python"]
    assert small.training is not None
    assert small.training.arguments["max_steps"] == 4


@pytest.mark.slow
def test_the_smoke_run_of_the_packaged_recipe(tmp_path: Path) -> None:
    assert main(["curate", "curate_local", "--smoke", "--output_dir", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert [system["name"] for system in results["systems"]] == ["tier1", "tier1_2a"]
