"""Probabilistic Partitive Partitioning (PPP) as an estimator of scikit-learn.

Letters: n rows, d_in columns, k clusters.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture._extras import require
from hf_mixture.data.clustering.fitting import Fitted, fit_partition
from hf_mixture.data.clustering.options import Options
from hf_mixture.data.clustering.rows import BoolArray, FloatArray, IntArray


_base: Any = require("sklearn.base", used_for="ProbabilisticPartition")
_validation = require("sklearn.utils.validation", used_for="ProbabilisticPartition")
_threads = require("threadpoolctl", used_for="ProbabilisticPartition")


class ProbabilisticPartition(_base.ClusterMixin, _base.BaseEstimator):
    """Clusters without a number of clusters and without a random number.

    Probabilistic Partitive Partitioning (arXiv 2003.04372): k-means with two centres splits the rows, from the root
    down, and a mixture of two Gaussians, started at that partition, says whether the split shows two clusters. With
    BIC(G) = -2 log-likelihood + p log n, a split is kept if BIC falls from one Gaussian to two and if the mixture
    agrees with the partition on `min_agreement` of the rows. In the end clusters that such a test does not tell apart
    are merged. The body of the paper was not available: the steps, the thresholds and the defaults are ours, and
    `docs/ppp.md` says how they were chosen.

    The partition does not depend on a seed, on the order of the rows or on the number of threads; equal rows are in
    one cluster. It may differ between processors whose linear algebra rounds differently.

    Args:
        family: Covariance families that judge a split: `"full"`, `"tied"`, `"diag"`, `"tied_diag"`, `"spherical"`,
            `"pdiag"` (diagonal in the principal axes of the rows that are split), `"auto"` (full where there are five
            rows for each column, else diag), or several, of which one that accepts is enough. `"diag"`, `"tied_diag"`
            and `scale="standard"` make the result depend on the choice of axes. Default: `"spherical"`, which proposes
            many splits, for the merging to decide.
        merge_family: The same for the merging at the end; None for none. Default: `"full"`.
        test: How a split, and a pair to merge, is judged: `"bic"`; `"cross_fit"` (the gain in log-likelihood per row
            on rows held out must exceed `margin`, so that more rows do not make smaller effects significant); `"dip"`
            (Hartigan's dip of the rows, projected on the line between the two means, must be significant at 5 % and
            at least 0.01); `"stability"` (splits of half of the rows must put the other half where the split has
            them). Of several all must accept. Default: `"bic"`.
        em_steps: M steps of the mixture from the partition; 1 judges the partition itself, more let the mixture move
            away from it, None is to convergence. Default: 1.
        min_agreement: Share of rows on which mixture and partition (for `"stability"`: the splits of the halves) must
            agree, in (0.5, 1]. Default: 0.9.
        margin: Nats per row for `"cross_fit"`. Default: 0.
        min_size: Least number of rows of a leaf, >= 1. Default: None, for max(10, sqrt(n) / 2).
        start_clusters: Split without judging until there are so many leaves, then merge. Default: None, to judge.
        conservative: Whether to refuse doubtful splits: `("full", "pdiag")` in the place of `family`, `"cross_fit"`
            beside `test`, and a `margin` of at least 0.1. Default: False.
        scale: `"standard"` gives columns variance 1 first. Default: `"none"`; scaling is up to the pipeline.
        num_components: Rows with more columns are projected on so many principal axes. Default: 50.
        ridge: Added to the diagonals of covariances, as a share of the mean variance of a column, > 0. Default: 1e-4.
        axis_ties: What to do if the two longest axes of a leaf are equally long, so that the split is arbitrary:
            `"stop"`, or `"first"` to split along the one that comes first. Default: `"stop"`.
        duplicates: `"count"` takes a row that is there twice as two observations, `"once"` as one, so that copies
            change nothing. Default: `"count"`.
        num_cells: Number of cells of a fine partition that take the place of the rows, which is approximate; None
            looks at each row. Default: `"auto"`, for 4096 if there are more than 1,000,000 distinct rows.

    Attributes:
        labels_: Cluster of each row of `fit`, of shape (n,), the largest cluster first.
        n_clusters_: Number of clusters k.
        separability_: Mean over the rows of each cluster of the largest posterior probability; shape (k,).
        cluster_sizes_: Weight of the rows of each cluster, of shape (k,).
        confidence_: Posterior probability of its own cluster for each row of `fit`, of shape (n,).
        leaf_report_: For each leaf of the tree its cluster, size, depth, why it was not split further, and the BIC
            gain per row and the agreement of the split that was refused.
        tree_: The splits, as a `PartitionTree`.
        mixture_: The Gaussians of the clusters, as a `JointMixture`.
        n_features_in_: Number of columns d_in.

    Example:
        >>> import numpy as np
        >>> from hf_mixture import ProbabilisticPartition
        >>> rng = np.random.default_rng(0)
        >>> rows = np.concatenate([rng.normal(place, 1, (200, 2)) for place in (0, 8)])
        >>> partition = ProbabilisticPartition().fit(rows)
        >>> partition.n_clusters_, bool(partition.separability_.min() > 0.99)
        (2, True)
        >>> partition.predict([[0.5, 0], [8, 7]]).tolist() == partition.labels_[[0, -1]].tolist()
        True
    """

    def __init__(
        self,
        *,
        family: str | tuple[str, ...] = "spherical",
        merge_family: str | tuple[str, ...] | None = "full",
        test: str | tuple[str, ...] = "bic",
        em_steps: int | None = 1,
        min_agreement: float = 0.9,
        margin: float = 0.0,
        min_size: int | None = None,
        start_clusters: int | None = None,
        conservative: bool = False,
        scale: str = "none",
        num_components: int = 50,
        ridge: float = 1e-4,
        axis_ties: str = "stop",
        duplicates: str = "count",
        num_cells: int | str | None = "auto",
    ) -> None:
        self.family = family
        self.merge_family = merge_family
        self.test = test
        self.em_steps = em_steps
        self.min_agreement = min_agreement
        self.margin = margin
        self.min_size = min_size
        self.start_clusters = start_clusters
        self.conservative = conservative
        self.scale = scale
        self.num_components = num_components
        self.ridge = ridge
        self.axis_ties = axis_ties
        self.duplicates = duplicates
        self.num_cells = num_cells

    def fit(self, X: npt.ArrayLike, y: Any = None, sample_weight: npt.ArrayLike | None = None) -> Any:
        """Find the clusters.

        Args:
            X: Rows, of shape (n, d_in) with n >= 2; finite.
            y: Not used.
            sample_weight: How many observations each row stands for, >= 0; shape (n,). Rows of weight 0 get a label
                and have no influence. Default: 1 each.

        Returns:
            The estimator.

        Raises:
            ValueError: A parameter, `X` or `sample_weight` breaks these rules.
        """
        options = Options.checked(**self.get_params(deep=False))
        points = _validation.validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        weights = _checked_weights(sample_weight, len(points))
        with _threads.threadpool_limits(limits=1, user_api="blas"):
            self._set_fitted(fit_partition(points, weights, options))
            posterior = self.mixture_.posterior(self.preparation_(points))
        self.labels_ = self.tree_.cluster_of(points)
        self.confidence_ = posterior[np.arange(len(points)), self.labels_]
        self.cluster_sizes_ = np.bincount(self.labels_, weights, minlength=self.n_clusters_)
        return self

    def _set_fitted(self, fitted: Fitted) -> None:
        self.preparation_, self.tree_, self.mixture_ = fitted.preparation, fitted.tree, fitted.mixture
        self.separability_, self.leaf_report_ = fitted.separability, fitted.leaf_report
        self.n_clusters_ = len(fitted.mixture.weights)

    def predict(self, X: npt.ArrayLike) -> IntArray:
        """Cluster of rows, by the nearest centre of each split; the rows of `fit` get the labels that they have.

        Args:
            X: Rows, of shape (n, d_in).

        Returns:
            Clusters, of shape (n,).
        """
        points = self._checked_rows(X)
        return self.tree_.cluster_of(points)

    def predict_proba(self, X: npt.ArrayLike) -> FloatArray:
        """Posterior probability of the clusters under the mixture with one Gaussian for each.

        Near the border of two clusters the most probable one may be another than `predict` says.

        Args:
            X: Rows, of shape (n, d_in).

        Returns:
            Probabilities, of shape (n, k).
        """
        points = self._checked_rows(X)
        with _threads.threadpool_limits(limits=1, user_api="blas"):
            return self.mixture_.posterior(self.preparation_(points))

    def most_separable(self, X: npt.ArrayLike | None = None, *, threshold: float = 0.99) -> BoolArray:
        """The rows that partition and mixture put into the same cluster with a probability above a threshold.

        Args:
            X: Rows, of shape (n, d_in). Default: None, for the rows of `fit`.
            threshold: Least probability, in [0, 1). Default: 0.99.

        Returns:
            Whether each row belongs to the most separable ones; shape (n,).

        Raises:
            ValueError: `threshold` is out of range, or the estimator was loaded and does not know its rows.
        """
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold={threshold!r} must lie in [0, 1): the default is 0.99")
        if X is not None:
            labels = self.predict(X)
            return self.predict_proba(X)[np.arange(len(labels)), labels] > threshold
        self._check_is_fitted()
        if not hasattr(self, "confidence_"):
            raise ValueError("a partition that was loaded does not have the rows of fit: pass X")
        return self.confidence_ > threshold

    def _check_is_fitted(self) -> None:
        _validation.check_is_fitted(self, "tree_")

    def _checked_rows(self, X: npt.ArrayLike) -> FloatArray:
        self._check_is_fitted()
        return _validation.validate_data(self, X, dtype=np.float64, reset=False)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> str:
        """Write the fitted partition: `partition.json` and `partition.safetensors`.

        The rows of `fit` are not written, nor what is known of each (`labels_`, `confidence_`, `cluster_sizes_`).

        Args:
            save_directory: The folder; made where it is missing.

        Returns:
            Path of `partition.json`.
        """
        from hf_mixture.data.clustering.partition_file import write

        return write(self, save_directory)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> ProbabilisticPartition:
        """Load a partition from a folder or a model repository of the Hub; it predicts as before, bit for bit.

        Args:
            name_or_path: The folder, or the name of the repository.
            revision: Branch, tag or commit. Default: the main branch.
            token: Access token. Default: the one that is logged in.
            cache_dir: Cache of the Hub. Default: the usual one.

        Returns:
            The partition.

        Raises:
            FileNotFoundError: There are no such files.
            ValueError: The files are damaged, or do not fit together.
        """
        from hf_mixture.data.clustering.partition_file import find, read

        return read(cls, find(os.fspath(name_or_path), revision=revision, token=token, cache_dir=cache_dir))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload partition",
        create_pr: bool = False,
    ) -> str:
        """Upload the partition to a model repository.

        Args:
            repo_id: Name of the repository; made where it is missing.
            revision: Branch. Default: the main branch.
            private: Whether a new repository is private. Default: the setting of the account.
            token: Access token. Default: the one that is logged in.
            commit_message: Message of the commit.
            create_pr: Whether to open a pull request instead of committing. Default: False.

        Returns:
            Address of the commit.
        """
        from hf_mixture.data.clustering.partition_file import push

        return push(
            self,
            repo_id,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
        )


def _checked_weights(sample_weight: npt.ArrayLike | None, count: int) -> FloatArray:
    if sample_weight is None:
        return np.ones(count)
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (count,):
        raise ValueError(
            f"sample_weight has the shape {weights.shape}; it must be ({count},): one weight for each row"
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight has negative or infinite entries; weights are finite and >= 0: correct them")
    if not weights.any():
        raise ValueError("sample_weight is zero for all rows; give some row a positive weight")
    return weights
