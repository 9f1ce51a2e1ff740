"""Clusters of a data set's rows, and CLIMB's domains from them, to the end of a small search."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from proxy_setup import LENGTH, spec
from sklearn.datasets import make_blobs

from hf_mixture import ProbabilisticPartition, cluster_dataset, domains_from_clusters, search_mixture
from hf_mixture.data.proxy import ProxySwarm
from hf_mixture.data.search.clusters import cluster_domains, embed_texts


POINTS, PLACES = make_blobs(300, 4, centers=3, random_state=0)


def points(rows: np.ndarray = POINTS) -> Dataset:
    return Dataset.from_dict({"vector": rows.tolist(), "text": [f"row {i}" for i in range(len(rows))]})


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_rows_get_their_cluster(batch_size: int) -> None:
    found = cluster_dataset(points(), "vector", batch_size=batch_size)
    partition = ProbabilisticPartition().fit(POINTS)
    assert found["cluster_id"][:] == partition.labels_.tolist()
    np.testing.assert_allclose(found["cluster_prob"][:], partition.confidence_, atol=1e-12)
    assert found.column_names == ["vector", "text", "cluster_id", "cluster_prob"]
    assert [found.features[name].dtype for name in ("cluster_id", "cluster_prob")] == ["int64", "float64"]


def test_a_fitted_partition_labels_other_splits_and_streams() -> None:
    splits = DatasetDict({"train": points(), "test": points(POINTS[::5] + 0.01)})
    found = cluster_dataset(splits, "vector")
    assert found["test"]["cluster_id"][:] == found["train"]["cluster_id"][::5]
    partition = ProbabilisticPartition().fit(POINTS)
    before = vars(partition).copy()
    stream = cluster_dataset(points().to_iterable_dataset(), "vector", partition=partition)
    assert [row["cluster_id"] for row in stream] == partition.labels_.tolist()
    assert vars(partition).keys() == before.keys()


def test_the_result_is_cached_by_content() -> None:
    rows = points()
    fingerprints = {cluster_dataset(rows, "vector")._fingerprint for _ in range(2)}
    assert len(fingerprints) == 1
    other = cluster_dataset(rows, "vector", partition=ProbabilisticPartition(min_size=40))
    assert other._fingerprint not in fingerprints


def test_wrong_columns_are_named() -> None:
    with pytest.raises(ValueError, match=r"column='embedding' is not one of \['vector', 'text'\]"):
        cluster_dataset(points())
    with pytest.raises(ValueError, match="does not hold a vector of one length"):
        cluster_dataset(points(), "text")
    with pytest.raises(ValueError, match="does not hold a vector of one length"):
        cluster_dataset(Dataset.from_dict({"embedding": [[1.0], [1.0, 2.0]]}))
    with pytest.raises(ValueError, match=r"a vector of one length in every row; .* filter the rows without one"):
        cluster_dataset(Dataset.from_dict({"embedding": [[1.0, 2.0], None]}))
    with pytest.raises(ValueError, match="'embedding' has 1 vectors with NaN or infinity; filter these rows"):
        cluster_dataset(Dataset.from_dict({"embedding": [[1.0, 2.0], [float("nan"), 0.0]]}))
    with pytest.raises(ValueError, match=r"has \['cluster_id'\] already"):
        cluster_dataset(points().rename_column("text", "cluster_id"), "vector")
    with pytest.raises(ValueError, match="pass partition"):
        cluster_dataset(points().to_iterable_dataset(), "vector")
    with pytest.raises(ValueError, match="split='train' is not one of"):
        cluster_dataset(DatasetDict({"test": points()}), "vector")


def labelled(numbers: list[int]) -> Dataset:
    return Dataset.from_dict({"text": [f"text {i}" for i in range(len(numbers))], "cluster_id": numbers})


def test_domains_are_the_clusters() -> None:
    rows = labelled([2] * 150 + [0] * 120 + [1] * 60 + [3] * 70 + [-1] * 20)
    domains = domains_from_clusters(rows)
    assert list(domains) == ["cluster_0", "cluster_2", "cluster_rest"]
    texts = {name: {text for part in domain.values() for text in part["text"]} for name, domain in domains.items()}
    for name, numbers in (("cluster_0", [0]), ("cluster_2", [2]), ("cluster_rest", [1, 3])):
        wanted = {row["text"] for row in rows if row["cluster_id"] in numbers}
        assert texts[name] == wanted


def test_wrong_clusters_are_named() -> None:
    with pytest.raises(ValueError, match="column='other' is not one of"):
        domains_from_clusters(labelled([0]), "other")
    with pytest.raises(ValueError, match="not whole numbers"):
        domains_from_clusters(labelled([0]), "text")
    with pytest.raises(ValueError, match="no row has a cluster"):
        domains_from_clusters(labelled([-1, -1]))
    with pytest.raises(ValueError, match="domain 'cluster_rest'"):
        domains_from_clusters(labelled([0] * 300 + [1]))


def test_cluster_domains_takes_the_partition() -> None:
    domains = cluster_domains(POINTS, clusterer=ProbabilisticPartition())
    assert domains.labels.tolist() == ProbabilisticPartition().fit(POINTS).labels_.tolist()


def sources() -> tuple[list[str], list[str]]:
    """Pieces of three kinds of text from the standard library, and their kind."""
    texts, kinds = [], []
    for package in ("email", "encodings", "tkinter"):
        files = sorted(Path(sysconfig.get_path("stdlib"), package).glob("*.py"))
        text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)[:200_000]
        texts += [text[start : start + 800] for start in range(0, len(text), 800)]
        kinds += [package] * (len(texts) - len(kinds))
    return texts, kinds


def test_climb_searches_a_mixture_of_clusters() -> None:
    """From texts to a mixture: embed, cluster, domains, CLIMB's rounds over proxies that are really trained."""
    texts, kinds = sources()
    rows = Dataset.from_dict({"text": texts, "embedding": embed_texts(texts, size=8).tolist()})
    clustered = cluster_dataset(rows)
    numbers = np.array(clustered["cluster_id"][:])
    # Most clusters hold one kind of text.
    purity = sum(np.unique(np.array(kinds)[numbers == n], return_counts=True)[1].max() for n in set(numbers))
    assert purity > 0.8 * len(texts)
    domains = domains_from_clusters(clustered)
    assert len(domains) > 1

    def blocks(part: Dataset) -> torch.Tensor:
        content = "".join(part["text"]).encode()
        return torch.tensor(list(content[: len(content) // LENGTH * LENGTH])).view(-1, LENGTH)

    train = {name: blocks(domain["train"]) for name, domain in domains.items()}
    validation = {name: blocks(domain["validation"])[:8] for name, domain in domains.items()}
    target = next(iter(domains))
    mixture = search_mixture(
        "climb",
        {name: len(ids) for name, ids in train.items()},
        objective=f"loss/{target}",
        direction="minimize",
        unit="tokens",
        evaluate=ProxySwarm(spec(), train, validation),
        rounds=(6, 3),
        predictor="ridge",
        num_candidates=200,
    )
    assert set(mixture.weights) == set(domains)
    assert sum(mixture.weights.values()) == pytest.approx(1)
    assert mixture.metadata["provenance"]["method"] == "climb"
