"""Copies a finished card and its pictures out of a run: `python model_cards/collect.py RUN_FOLDER/model NAME`.

The card stays as the run wrote it. Pictures get a palette of 64 colours, which makes them small.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

from PIL import Image


HERE = Path(__file__).parent
LARGEST = 100_000


def collect(folder: Path, name: str) -> Path:
    """Copy the card of a folder to `model_cards/NAME`.

    Args:
        folder: A folder with a `README.md` that a run has written.
        name: Name of the copy.

    Returns:
        The folder of the copy.

    Raises:
        ValueError: If the card names a path of this machine, or a picture is too large.
    """
    card = (folder / "README.md").read_text(encoding="utf-8")
    if (found := re.search(r"(?<![\w.:/])/(?:home|root|tmp|Users|work)/\S*", card)) is not None:
        raise ValueError(f"the card in {folder} names {found[0]}, a path of this machine; run the recipe by its name")
    files = {"README.md": card.encode()}
    for picture in re.findall(r"!\[[^\]]*\]\(([\w.-]+\.png)\)", card):
        content = io.BytesIO()
        with Image.open(folder / picture) as image:
            image.convert("RGB").quantize(64).save(content, "PNG", optimize=True)
        files[picture] = content.getvalue()
        if (size := len(files[picture])) > LARGEST:
            raise ValueError(f"{picture} has {size:,} bytes, more than {LARGEST:,}; draw it smaller")
    target = HERE / name
    target.mkdir(exist_ok=True)
    for file, data in files.items():
        (target / file).write_bytes(data)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder in which a run has left an artefact with its card")
    parser.add_argument("name", help="name of the folder in model_cards/")
    arguments = parser.parse_args()
    try:
        print(collect(arguments.folder, arguments.name))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
