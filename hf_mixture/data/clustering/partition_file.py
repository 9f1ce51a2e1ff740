"""A fitted partition on disk: `partition.json` (parameters, report) and `partition.safetensors` (arrays).

Letters: d_in columns, d axes, m splits, L = m + 1 leaves, k clusters.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_mixture.data.clustering.fitting import Fitted
from hf_mixture.data.clustering.options import Options
from hf_mixture.data.clustering.posterior import JointMixture
from hf_mixture.data.clustering.preparation import Preparation
from hf_mixture.data.clustering.tree import PartitionTree
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.download import download
from hf_mixture.hub.reading import read_json


if TYPE_CHECKING:
    from hf_mixture.data.clustering.ppp import ProbabilisticPartition

FILE_NAME = "partition.json"
TENSORS_NAME = "partition.safetensors"
FORMAT = "hf_mixture.partition"
VERSION = 1
MAX_FILE_BYTES = 64 * 2**20

# Shape of each array, and its kind of number.
ARRAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "centre": (("d_in",), "f"),
    "projection": (("d_in", "d"), "f"),
    "offsets": (("m", "d_in"), "f"),
    "normals": (("m", "d_in"), "f"),
    "children": (("m", "2"), "i"),
    "clusters": (("L",), "i"),
    "weights": (("k",), "f"),
    "means": (("k", "d"), "f"),
    "covariances": (("k", "d", "d"), "f"),
    "separability": (("k",), "f"),
}


def dump(partition: ProbabilisticPartition) -> tuple[str, bytes]:
    """The text of the one file and the content of the other.

    Raises:
        sklearn.exceptions.NotFittedError: The partition is not fitted.
    """
    from safetensors.numpy import save

    partition._check_is_fitted()
    tree, mixture, preparation = partition.tree_, partition.mixture_, partition.preparation_
    arrays = {
        "centre": preparation.centre,
        "projection": preparation.projection,
        "offsets": tree.offsets,
        "normals": tree.normals,
        "children": tree.children,
        "clusters": tree.clusters,
        "weights": mixture.weights,
        "means": mixture.means,
        "covariances": mixture.covariances,
        "separability": partition.separability_,
    }
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    document = {
        "format": FORMAT,
        "version": VERSION,
        "parameters": partition.get_params(deep=False),
        "feature_names": getattr(partition, "feature_names_in_", np.array([])).tolist() or None,
        "leaf_report": partition.leaf_report_,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return json.dumps(document, indent=2, allow_nan=False, default=np.generic.item) + "\n", content


def write(partition: ProbabilisticPartition, folder: str | os.PathLike[str]) -> str:
    """Write the files; see `ProbabilisticPartition.save_pretrained`."""
    directory = Path(folder)
    if directory.is_file():
        raise ValueError(f"save_directory={os.fspath(folder)!r} is a file; it must be a folder: choose another path")
    text, content = dump(partition)
    directory.mkdir(parents=True, exist_ok=True)
    # The text names the hash of the arrays: it is written last, so that a reader in between sees two that differ.
    write_atomic(directory / TENSORS_NAME, content)
    write_atomic(directory / FILE_NAME, text)
    return str(directory / FILE_NAME)


def read(cls: type[ProbabilisticPartition], folder: str) -> ProbabilisticPartition:
    """Read and validate the files of a folder.

    Raises:
        FileNotFoundError: One of the files is missing.
        ValueError: They are damaged, newer than this package, or do not fit together.
    """
    text_path, tensors_path = (Path(folder, name) for name in (FILE_NAME, TENSORS_NAME))
    for path in (text_path, tensors_path):
        if not path.is_file():
            raise FileNotFoundError(f"{folder!r} has no {path.name}; write it with save_pretrained")
    document = _document(text_path)
    content = tensors_path.read_bytes()
    if hashlib.sha256(content).hexdigest() != document["sha256"]:
        raise ValueError(
            f"{tensors_path} is not the file that {FILE_NAME} was written with; copy or download both again"
        )
    arrays = _arrays(content, tensors_path)
    parameters: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document["parameters"].items()
    }
    try:
        Options.checked(**parameters)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{text_path}: parameters are not those of ProbabilisticPartition ({error})") from None
    except ValueError as error:
        raise ValueError(f"{text_path}: {error}") from None
    if [leaf["cluster"] for leaf in document["leaf_report"]] != arrays["clusters"].tolist():
        raise ValueError(f"{text_path}: leaf_report is not that of the tree; the file was changed: save it again")
    names = document["feature_names"]
    if names is not None and len(names) != len(arrays["centre"]):
        raise ValueError(
            f"{text_path}: feature_names has {len(names)} entries for {len(arrays['centre'])} columns; the file was "
            "changed: save the partition again"
        )
    partition = cls(**parameters)
    partition._set_fitted(
        Fitted(
            Preparation(arrays["centre"], arrays["projection"]),
            PartitionTree(*(arrays[name] for name in ("offsets", "normals", "children", "clusters"))),
            JointMixture(*(arrays[name] for name in ("weights", "means", "covariances"))),
            arrays["separability"],
            document["leaf_report"],
        )
    )
    partition.n_features_in_ = len(arrays["centre"])
    if names is not None:
        partition.feature_names_in_ = np.asarray(names, dtype=object)
    return partition


def _document(path: Path) -> dict[str, Any]:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    document = read_json(path, max_bytes=MAX_FILE_BYTES)
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int | float) and version > VERSION:
        raise ValueError(f"{path}: version={version} is newer than {VERSION}, the newest that is read here: upgrade")
    fault = best_match(Draft202012Validator(_schema()).iter_errors(document))
    if fault is not None:
        place = ".".join(map(str, fault.path)) or "top level"
        raise ValueError(f"{path}: {place}: {fault.schema.get('description', fault.message)}")
    found: dict[str, Any] = document
    return found


@cache
def _schema() -> dict[str, Any]:
    text = resources.files("hf_mixture.data").joinpath("schemas/partition.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _arrays(content: bytes, path: Path) -> dict[str, np.ndarray]:
    """The arrays, with shapes and values that `predict` can work with."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    def wrong(what: str) -> ValueError:
        return ValueError(f"{path}: {what}; the file was changed: save the partition again")

    try:
        arrays = load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); copy or download it again") from None
    if set(arrays) != set(ARRAYS):
        raise wrong(f"it holds the arrays {sorted(arrays)}, not {sorted(ARRAYS)}")
    sizes = {"2": 2}
    for name, (shape, kind) in ARRAYS.items():
        array = arrays[name]
        if array.dtype != (np.float64 if kind == "f" else np.int64) or array.ndim != len(shape):
            raise wrong(f"{name} is an array of {array.dtype} with {array.ndim} axes")
        if any(sizes.setdefault(letter, size) != size for letter, size in zip(shape, array.shape, strict=True)):
            raise wrong(f"{name} has the shape {array.shape}, which does not fit the other arrays")
        if kind == "f" and not np.isfinite(array).all():
            raise wrong(f"{name} has entries that are not finite")
    if sizes["L"] != sizes["m"] + 1 or sizes["d_in"] < 1 or sizes["k"] < 1:
        raise wrong(f"{sizes['m']} splits, {sizes['L']} leaves and {sizes['k']} clusters are no tree")
    _check_tree(arrays["children"], sizes, wrong)
    clusters, weights = arrays["clusters"], arrays["weights"]
    if set(clusters.tolist()) != set(range(sizes["k"])):
        raise wrong(f"the leaves are not in the clusters 0 to {sizes['k'] - 1}")
    if (weights <= 0).any() or abs(weights.sum() - 1) > 1e-9:
        raise wrong("the weights of the mixture are not positive with the sum 1")
    covariances = arrays["covariances"]
    try:
        np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        raise wrong("a covariance is not positive definite") from None
    if np.abs(covariances - covariances.transpose(0, 2, 1)).max(initial=0) > 1e-9 * np.abs(covariances).max(initial=0):
        raise wrong("a covariance is not symmetric")
    return arrays


def _check_tree(children: np.ndarray, sizes: dict[str, int], wrong: Any) -> None:
    """Each split but the root, and each leaf, hangs from one split that comes before it."""
    inner = children[children >= 0]
    leaves = -1 - children[children < 0]
    complete = np.array_equal(np.sort(inner), np.arange(1, sizes["m"])) and np.array_equal(
        np.sort(leaves), np.arange(sizes["L"]) if sizes["m"] else []
    )
    below = children > np.arange(len(children))[:, None]
    if not complete or not (below | (children < 0)).all():
        raise wrong("the splits are no tree")


def find(
    name_or_path: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> str:
    """Return the local folder of a partition: the one named, or that of a model repository after downloading."""
    if os.path.isdir(name_or_path):
        return name_or_path
    paths = [
        download(name_or_path, name, revision=revision, token=token, cache_dir=cache_dir)
        for name in (FILE_NAME, TENSORS_NAME)
    ]
    return os.path.dirname(paths[0])


def push(
    partition: ProbabilisticPartition,
    repo_id: str,
    *,
    revision: str | None,
    private: bool | None,
    token: str | bool | None,
    commit_message: str,
    create_pr: bool,
) -> str:
    """Upload the files in one commit; see `ProbabilisticPartition.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    text, content = dump(partition)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(TENSORS_NAME, content), CommitOperationAdd(FILE_NAME, text.encode("utf-8"))],
        commit_message=commit_message,
        revision=revision,
        create_pr=create_pr,
    )
    return str(commit.commit_url)
