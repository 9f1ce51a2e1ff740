from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest

from hf_mixture import Mixture
from hf_mixture.cli.main import main


def test_the_tested_environment_is_supported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "registration of the adapter types: ok" in said
    assert said.endswith("no problems found\n")


def test_an_unsupported_version_is_a_problem_with_a_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.17.0" if name == "peft" else installed(name))
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [package["name"] for package in report["packages"] if not package["ok"]] == ["peft"]
    [problem] = report["problems"]
    assert "peft is 0.17.0; hf_mixture supports" in problem
    assert 'pip install "peft' in problem


def test_an_adapter_folder_says_what_to_import_or_export(
    mos_adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(mos_adapter)]) == 0
    said = capsys.readouterr().out
    assert "MOS adapter" in said
    assert "import hf_mixture before loading" in said
    assert "KeyError: 'MOS'" in said
    assert "hf-mixture export-lora" in said
    assert f"the base model {mos_adapter.parent / 'base'}" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 0}, "r=0 must be"),
        ({"private_rank": 3}, "private_rank=3 must be"),
        ({"equivalent_rank": 7}, "must have two dimensions, the first a multiple"),
    ],
)
def test_an_adapter_that_its_configuration_contradicts(
    changes: dict, said: str, mos_adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Path(shutil.copytree(mos_adapter, tmp_path / "adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")) | changes
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["doctor", str(adapter), "--json"]) == 1
    [artefact] = json.loads(capsys.readouterr().out)["artefacts"]
    assert said in artefact["problems"][0]["what"]


def test_what_files_say_stays_on_its_line(
    mos_adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Path(shutil.copytree(mos_adapter, tmp_path / "adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "base\n  no problems found\x1b[2J"
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    main(["doctor", str(adapter)])
    said = capsys.readouterr().out
    assert "  needs: the base model base\\n  no problems found\\x1b[2J" in said.splitlines()


def test_a_mixture_is_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Mixture({"a": 0.5, "b": 0.5}, unit="tokens").save_pretrained(tmp_path)
    assert main(["doctor", str(tmp_path)]) == 0
    file = tmp_path / "mixture.json"
    file.write_text(file.read_text(encoding="utf-8").replace("0.5", "-0.5", 1), encoding="utf-8")
    assert main(["doctor", str(tmp_path)]) == 1
    assert "PROBLEM" in capsys.readouterr().out
