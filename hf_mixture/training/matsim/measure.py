"""What a MatSim run measures of embeddings: one-shot retrieval, and whether cosines follow mixing ratios.

Letters: N images, D embedding size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.training.matsim.data import Split


_BATCH = 200


def embed(model: Any, split: Split) -> Any:
    """Embeddings of a split [N, D]."""
    import torch

    model.eval()
    with torch.no_grad():
        parts = [
            model(split.pixels[start : start + _BATCH].to(model.device)).image_embeds.float().cpu()
            for start in range(0, len(split.pixels), _BATCH)
        ]
    return torch.cat(parts).numpy()


def score(
    retrieval: Any, mixtures: Any, splits: dict[str, Split], *, votes: int, similarity: str = "dot"
) -> dict[str, float]:
    """Measure embeddings of the two splits of a stage.

    Args:
        retrieval: Embeddings of unmixed materials [N, D].
        mixtures: Embeddings of mixtures [N', D].
        splits: The splits themselves: `retrieval` and `mixtures`.
        votes: Images that vote.
        similarity: `"dot"` or `"euclidean"`.

    Returns:
        Class-balanced accuracies of retrieval among all materials and within families, with their chance; accuracy of
        telling mixtures of one set apart; and Spearman correlation of similarity and ratios within sets.
    """
    from hf_mixture.metrics import load_metric

    metric = load_metric("one_shot_retrieval")
    found = {}
    for name, embeddings in (("retrieval", retrieval), ("mixtures", mixtures)):
        split = splits[name]
        found[name] = metric.compute(
            embeddings=embeddings,
            classes=split.materials,
            superclasses=split.families,
            votes=votes,
            similarity=similarity,
        )
    kept = ("top1_all", "top1_subclass", "votes_all", "votes_subclass", "chance_all", "chance_subclass")
    return {
        **{name: found["retrieval"][name] for name in kept},
        "mixtures_top1": found["mixtures"]["top1_subclass"],
        "mixtures_chance": found["mixtures"]["chance_subclass"],
        "spearman": spearman_within_sets(mixtures, splits["mixtures"], similarity=similarity),
    }


def similarities(embeddings: Any, *, similarity: str = "dot") -> Any:
    """Similarities of all pairs [N, N]: dot products, or negative distances."""
    vectors = np.asarray(embeddings, dtype=np.float64)
    if similarity == "dot":
        return vectors @ vectors.T
    return -np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)


def spearman_within_sets(embeddings: Any, split: Split, *, similarity: str = "dot") -> float:
    """Spearman correlation of similarity and 1 - |df| over the pairs of each material set, averaged over sets."""
    found = []
    for number in np.unique(split.set_ids):
        members = split.set_ids == number
        ratios = split.ratios[members]
        pairs = np.triu_indices(len(ratios), 1)
        near = 1 - np.abs(ratios[:, None] - ratios[None])
        found.append(_spearman(similarities(embeddings[members], similarity=similarity)[pairs], near[pairs]))
    return float(np.mean(found))


def cosines_by_difference(embeddings: Any, split: Split) -> dict[str, list[float]]:
    """Quartiles of the cosines of pairs of one set for each |df|, and of pairs of different sets under `"other"`."""
    cosines = similarities(embeddings)
    differences = np.abs(split.ratios[:, None] - split.ratios[None]).round(3)
    upper = np.triu(np.ones_like(cosines, dtype=bool), 1)
    same = split.set_ids[:, None] == split.set_ids[None]
    chosen = {f"{value:g}": same & (differences == value) for value in np.unique(differences)}
    chosen["other"] = ~same
    return {name: np.quantile(cosines[where & upper], [0.25, 0.5, 0.75]).tolist() for name, where in chosen.items()}


def _spearman(first: Any, second: Any) -> float:
    import pandas

    ranks = pandas.DataFrame({"first": first, "second": second}).rank()
    # Embeddings that are all alike order nothing.
    return 0.0 if ranks["first"].nunique() == 1 else float(ranks["first"].corr(ranks["second"]))
