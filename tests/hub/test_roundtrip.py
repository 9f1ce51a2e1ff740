"""Push in one process, pull in another with a clean cache, over real HTTP; both fail if they leave loopback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_double import HubDouble, running_hub
from hub_store import HubError


HERE = Path(__file__).parent


def run(hub: HubDouble, script: str, folder: Path) -> None:
    guard = HERE.parent / "support" / "loopback_only.py"
    done = subprocess.run(
        [sys.executable, str(guard), str(HERE / f"{script}.py"), str(folder)],
        env=hub.environment(folder / f"home_{script}"),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + "\n".join(hub.requests[-20:])


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> tuple[HubDouble, Path, dict]:
    folder = tmp_path_factory.mktemp("trip")
    with running_hub() as hub:
        run(hub, "roundtrip_push", folder)
        run(hub, "roundtrip_pull", folder)
    return hub, folder, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_files_on_the_hub_are_the_saved_ones(trip: tuple[HubDouble, Path, dict]) -> None:
    hub, folder, _ = trip
    model = hub.store.files("model", "tester/model")
    assert hashes(folder / "model").items() <= model.items()
    adapter = hub.store.files("model", "tester/adapter")
    saved = hashes(folder / "adapter")
    assert saved == {path: adapter[path] for path in ("adapter_config.json", "adapter_model.safetensors", "README.md")}
    assert hub.store.files("dataset", "tester/mixture")["mixture.json"] == hashes(folder / "mixture")["mixture.json"]


def test_pulled_files_are_the_pushed_ones(trip: tuple[HubDouble, Path, dict]) -> None:
    hub, _, report = trip
    snapshot = hashes(Path(report["snapshot"]))
    assert snapshot == hub.store.files("model", "tester/adapter")


def test_stock_loaders_give_equal_objects(trip: tuple[HubDouble, Path, dict]) -> None:
    report = trip[2]
    assert report["adapter_changes_the_model"]
    assert report["equal_logits"] == dict.fromkeys(("model", "auto", "auto_peft", "peft"), True)
    assert report["equal_data"] == {"train": True, "test": True}
    assert report["equal_stream"]
    assert report["equal_mixture"]
    assert report["mixture_card"].startswith("# Notes\n")
    assert report["mixture_card"].count("| wiki | 0.7 |") == report["mixture_card"].count("## Mixture") == 1
    assert report["card"]["base_model"] == "tester/model"
    assert "mos" in report["card"]["tags"]
    assert report["inspected"] == ["MOS adapter"]


def test_history_tags_ranges_and_missing_things(trip: tuple[HubDouble, Path, dict]) -> None:
    hub, _, report = trip
    assert len(report["history"]) == 4
    assert report["history"][-1] == "initial commit"
    assert "notes/later.txt" not in report["files_at_tag"]
    assert {"notes", "notes/later.txt"} <= set(report["tree"])
    assert report["ranged_read"]
    assert report["missing"] == [False, False, False]
    with pytest.raises(HubError):
        hub.store.files("model", "tester/nothing")


def test_every_request_had_a_route(trip: tuple[HubDouble, Path, dict]) -> None:
    hub = trip[0]
    assert any(request.startswith('"PUT /lfs/') for request in hub.requests)
    assert not any("no route" in request or '" 500 ' in request for request in hub.requests)
