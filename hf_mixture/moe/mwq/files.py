"""The folder of a nested model: one file of planes for each width, and an index for each width that can be read.

`mwq-rest.safetensors` holds what is not quantised, `mwq-2.safetensors` the base of 2 bits with its offsets and scales,
`mwq-3.safetensors` the signs and scales that make it 3 bits, and so on. `mwq-at-3.safetensors.index.json` lists what a
model at 3 bits is made of, so that a reader who wants no more fetches no more. In every file a tensor of planes begins
with the experts: the planes of an expert are one range of bytes, whose checksum stands in the header of the file.

There is no `model.safetensors`: a process that has not imported this package only warns of an unknown quantisation
method, and would go on with random experts; so it finds no weights instead.
"""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from torch import Tensor
from tqdm.auto import tqdm

from hf_mixture.hub.atomic import write_atomic, write_tensors
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import parse_json
from hf_mixture.moe.mwq.targets import refuse_on_disk


# The names of tensors of planes.
PLANE_NAME = r"(_proj|\.weight)_(base|offset|scale_(?P<scale>\d)|sign_(?P<sign>\d))$"
_PLANE = re.compile(PLANE_NAME)
_CHECKSUMS = "crc32"


def index_name(width: int) -> str:
    """Name of the index of the files of a model at a width."""
    return f"mwq-at-{width}.safetensors.index.json"


def is_plane_file(file: Path) -> bool:
    """Whether a file of a nested model holds planes."""
    return re.match(r"mwq-\d", file.name) is not None


def width_of(name: str, first: int) -> int | None:
    """The width that a tensor belongs to; None if it is not one of the planes.

    Args:
        name: Its name.
        first: The first width of the model.
    """
    match = _PLANE.search(name)
    if match is None:
        return None
    number = match["scale"] or match["sign"]
    return first if number is None else int(number)


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in a file.

    Args:
        file: The file.
        dtype: Its type.
        shape: Its shape, the experts first.
        start: First byte in the file.
        checksums: CRC-32 of each expert, or of a linear layer; empty for tensors without.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    checksums: tuple[int, ...]

    @functools.cached_property
    def num_bytes(self) -> int:
        """Bytes of one part: of an expert, or of a linear layer."""
        return self.dtype.itemsize * math.prod(self.shape) // max(1, len(self.checksums))


def read_header(file: Path) -> dict[str, TensorPlace]:
    """Read where the tensors of a safetensors file lie, and their checksums.

    Args:
        file: The file.

    Returns:
        Places by tensor name.

    Raises:
        ValueError: If the file is not a whole safetensors file.
        OSError: If it cannot be read.
    """
    types = {"U8": torch.uint8, "F16": torch.float16}
    with reading(file, "download or save the model again"):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size - 8:
                raise ValueError(f"it has {file.stat().st_size} bytes and a header of {length}")
            header: dict[str, Any] = parse_json(stream.read(length), str(file))
        sums = parse_json(header.pop("__metadata__", {}).get(_CHECKSUMS, "{}"), f"the checksums of {file}")
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if file.stat().st_size != 8 + length + end:
            raise ValueError(f"it has {file.stat().st_size} bytes and its header speaks of {8 + length + end}")
        for name, entry in header.items():
            sizes, (start, stop) = entry["shape"], entry["data_offsets"]
            are_counts = all(type(number) is int and number >= 0 for number in (*sizes, start, stop))
            if not are_counts or (sums.get(name) and not sizes):
                raise ValueError(f"{name!r} has the shape {sizes} and lies from {start} to {stop}")
            dtype = types.get(entry["dtype"])
            if dtype is not None and dtype.itemsize * math.prod(sizes) != stop - start:
                raise ValueError(f"{name!r} of the shape {sizes} cannot lie from {start} to {stop}")
        return {
            name: TensorPlace(
                file=file,
                dtype=types[entry["dtype"]],
                shape=tuple(entry["shape"]),
                start=8 + length + entry["data_offsets"][0],
                checksums=tuple(sums.get(name, ())),
            )
            for name, entry in header.items()
            if entry["dtype"] in types
        }


def check_checksums(files: Sequence[Path], leave_out: tuple[str, ...] = ()) -> None:
    """Compare the planes in files with their checksums.

    Args:
        files: Files of a nested model; tensors without checksums are passed over.
        leave_out: Beginnings of the names of tensors that are passed over too.

    Raises:
        ValueError: If a file is truncated, or the planes of an expert have changed.
    """
    found = [place for file in files for place in _planes(file)]
    places = [(name, place) for name, place in found if not name.startswith(leave_out)]
    total = sum(len(place.checksums) * place.num_bytes for _, place in places)
    with tqdm(total=total, unit="B", unit_scale=True, desc="Checking planes", delay=2) as bar:
        for name, place in places:
            with place.file.open("rb") as stream:
                stream.seek(place.start)
                for expert in range(len(place.checksums)):
                    check_range(stream.read(place.num_bytes), name, place, expert)
                    bar.update(place.num_bytes)


def check_range(data: bytes | memoryview, name: str, place: TensorPlace, expert: int) -> None:
    """Compare the bytes of one expert with their checksum.

    Raises:
        ValueError: If they differ.
    """
    if len(data) != place.num_bytes or zlib.crc32(data) != place.checksums[expert]:
        raise ValueError(
            f"the planes of expert {expert} of {name} in {place.file} are damaged: their checksum is not the one they "
            "were saved with; download or save the model again"
        )


def _planes(file: Path) -> Iterator[tuple[str, TensorPlace]]:
    for name, place in read_header(file).items():
        if place.checksums:
            if len(place.checksums) not in (1, place.shape[0]):
                raise ValueError(f"{file} has {len(place.checksums)} checksums for {place.shape[0]} experts of {name}")
            yield name, place


def split_by_width(source: Path, target: Path, widths: Sequence[int], max_shard_size: int | str) -> None:
    """Write the files of a nested model from the one file that transformers wrote.

    Args:
        source: Folder with `model.safetensors`, or its shards, and the small files of the model.
        target: Folder for the nested model.
        widths: Widths of the model.
        max_shard_size: Largest size of a file, as for `save_pretrained`.
    """
    for old in target.glob("mwq-*"):
        old.unlink()
    tensors, files = _open_all(sorted(source.glob("*.safetensors")))
    names: dict[int | None, list[str]] = {}
    for name in tensors:
        names.setdefault(width_of(name, widths[0]), []).append(name)
    weight_map: dict[int | None, dict[str, str]] = {}
    sizes: dict[int | None, int] = {}
    for width in [None, *widths]:
        label = "rest" if width is None else str(width)
        group = {name: tensors[name]() for name in names.get(width, [])}
        split = split_torch_state_dict_into_shards(
            group, filename_pattern=f"mwq-{label}{{suffix}}.safetensors", max_shard_size=max_shard_size
        )
        for filename, members in split.filename_to_tensors.items():
            _write_file(target / filename, {name: group[name] for name in members}, with_sums=width is not None)
        weight_map[width] = {
            name: filename for filename, members in split.filename_to_tensors.items() for name in members
        }
        sizes[width] = sum(tensor.numel() * tensor.element_size() for tensor in group.values())
    del files
    for path in source.iterdir():
        if not path.name.startswith("model"):
            path.replace(target / path.name)
    for place, width in enumerate(widths):
        parts = [None, *widths[: place + 1]]
        index = {
            "metadata": {"total_size": sum(sizes[part] for part in parts)},
            "weight_map": {name: file for part in parts for name, file in weight_map[part].items()},
        }
        write_atomic(target / index_name(width), json.dumps(index, indent=2, sort_keys=True) + "\n")


def _open_all(paths: Sequence[Path]) -> tuple[dict[str, Callable[[], Tensor]], list[Any]]:
    files = [safe_open(path, framework="pt") for path in paths]
    names = [(name, file) for file in files for name in file.keys()]  # noqa: SIM118 - these are not mappings
    return {name: functools.partial(file.get_tensor, name) for name, file in names}, files


def _write_file(path: Path, tensors: Mapping[str, Tensor], *, with_sums: bool) -> None:
    metadata = {"format": "pt"}
    if with_sums:
        parts = {name: _parts(name, tensor) for name, tensor in tensors.items()}
        sums = {name: [zlib.crc32(part.numpy().data) for part in some] for name, some in parts.items()}
        metadata[_CHECKSUMS] = json.dumps(sums)
    write_tensors(path, tensors, metadata=metadata)


def _parts(name: str, tensor: Tensor) -> Iterable[Tensor]:
    """The experts of a tensor of planes; a linear layer is one part."""
    return [tensor] if ".weight_" in name else tensor


def save_nested(
    model: Any, stock_save: Callable[..., Any], folder: Any, *, max_shard_size: int | str = "50GB", **kwargs: Any
) -> None:
    """Save a nested model: what `save_pretrained` of such a model does.

    Args:
        model: The model.
        stock_save: `save_pretrained` of transformers, bound to the model.
        folder: Where to.
        max_shard_size: Largest size of a file.
        kwargs: As for `save_pretrained`.
    """
    refuse_on_disk(model, "be saved from it")
    target = Path(folder)
    if target.is_file():
        raise ValueError(f"save_directory={str(folder)!r} is a file; name a folder")
    kwargs.pop("save_original_format", None)
    push = kwargs.pop("push_to_hub", False)
    hub = {name: kwargs.pop(name) for name in ("repo_id", "commit_message", "create_pr", "private") if name in kwargs}
    target.mkdir(parents=True, exist_ok=True)
    is_main = model.should_save_on_this_rank(kwargs.get("is_main_process", True))
    partial = tempfile.mkdtemp(prefix=".mwq-", dir=target)
    try:
        # The names of the model, not those of its family: the conversions of a family know stock experts only.
        stock_save(partial, save_original_format=False, max_shard_size="10000GB", **kwargs)
        if is_main:
            widths = model.config.quantization_config.widths
            split_by_width(Path(partial), target, widths, max_shard_size)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if push:
        model.push_to_hub(hub.pop("repo_id", target.name), **hub)
