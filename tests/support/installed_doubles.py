"""Distributions that are installed as far as their metadata and files go."""

from __future__ import annotations

from pathlib import Path


def install_double(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    """Lay out a distribution as an installer does."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
