"""kNN-Embed as a model of transformers: mixtures over clusters on top of embeddings, and lists of items.

Letters: B users of a batch, U users, I items, d embedding size, m clusters, C clusters of a user, K list length.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hf_mixture.models.knn_embed import growth, tables
from hf_mixture.models.knn_embed.ann import has_faiss
from hf_mixture.models.knn_embed.clusters import labels_of, normalise, number_clusters
from hf_mixture.models.knn_embed.configuration_knn_embed import KnnEmbedConfig
from hf_mixture.models.knn_embed.edges import check_ids, make_history, sparse
from hf_mixture.models.knn_embed.embeddings import BipartiteEmbeddings, id_array
from hf_mixture.models.knn_embed.index import ItemIndex
from hf_mixture.models.knn_embed.mixture import cluster_counts, keep_largest, padded_components, smooth
from hf_mixture.models.knn_embed.neighbours import nearest_users
from hf_mixture.models.knn_embed.retrieval import RetrievalOutput, retrieve


Search = Literal["exact", "hnsw"]


class KnnEmbedModel(BipartiteEmbeddings):
    """Embeddings of users and items, and users as smoothed mixtures over clusters of items (arXiv 2205.06205).

    The score of an item is (u + r) . i. `fit_mixture` clusters the items, p(c|u) says which share of a user's items is
    in which cluster, smoothed with the k nearest users: p = (1 - lambda) p_mle + lambda p_knn. `retrieve` searches
    each cluster with a number of slots in proportion to p. The body of the paper was not available: everything beyond
    this paragraph is our definition, see `docs/knn_embed.md`.

    Args:
        config: The configuration.

    Example:
        >>> import numpy as np
        >>> from hf_mixture import KnnEmbedModel
        >>> rng = np.random.default_rng(0)
        >>> model = KnnEmbedModel.from_embeddings(
        ...     rng.normal(size=(6, 4)), rng.normal(size=(20, 4)), num_clusters=3, num_neighbours=2
        ... )
        >>> edges = {"user_ids": rng.integers(0, 6, 40), "item_ids": rng.integers(0, 20, 40)}
        >>> model.fit_mixture(edges)["num_clusters"]
        3
        >>> tuple(model.retrieve([0, 5], k=4).item_ids.shape)
        (2, 4)
    """

    def __init__(self, config: KnnEmbedConfig) -> None:
        super().__init__(config)
        self.register_buffer("item_clusters", torch.full((config.num_items,), -1))
        self.register_buffer("cluster_centroids", torch.zeros(config.num_fitted_clusters, config.embedding_size))
        self.register_buffer("user_is_known", torch.zeros(config.num_users, dtype=torch.bool))
        self.register_buffer("mixture_indptr", torch.zeros(config.num_users + 1, dtype=torch.int64))
        self.register_buffer("mixture_clusters", torch.zeros(config.num_mixture_entries, dtype=torch.int64))
        self.register_buffer("mixture_weights", torch.zeros(config.num_mixture_entries))
        self.register_buffer("history_indptr", torch.zeros(config.num_users + 1, dtype=torch.int64))
        self.register_buffer("history_items", torch.zeros(config.num_history_entries, dtype=torch.int64))
        self._index: tuple[Any, ItemIndex] | None = None
        self.post_init()

    @property
    def popularity(self) -> Tensor:
        """Number of training edges of each item [I]."""
        return torch.bincount(self.history_items, minlength=self.config.num_items)

    @property
    def history(self) -> Any:
        """Training edges as a `scipy.sparse.csr_array` of ones [U, I]."""
        indptr, items = self.history_indptr.cpu().numpy(), self.history_items.cpu().numpy()
        shape = (self.config.num_users, self.config.num_items)
        return sparse().csr_array((np.ones(len(items)), items, indptr), shape=shape)

    @property
    def mixture(self) -> Any:
        """p(c|u) as a `scipy.sparse.csr_array` [U, m]."""
        indptr, clusters = self.mixture_indptr.cpu().numpy(), self.mixture_clusters.cpu().numpy()
        shape = (self.config.num_users, self.config.num_fitted_clusters)
        found = sparse().csr_array((self.weights_of_mixtures(), clusters, indptr), shape=shape)
        return found.sorted_indices()

    def weights_of_mixtures(self) -> Any:
        """Weights of the entries of all mixtures, one user after another.

        Returns:
            An array in float32, as NumPy has no bfloat16.
        """
        return self.mixture_weights.float().cpu().numpy()

    @torch.no_grad()
    def fit_mixture(
        self,
        edges: Any,
        *,
        clusters: Any = None,
        users: Any = None,
        cold_users: Literal["popularity", "embedding"] = "popularity",
        neighbour_search: Search = "exact",
        seed: int = 0,
    ) -> dict[str, Any]:
        """Cluster the items, and find the mixture of each user; after training, or with given embeddings.

        Args:
            edges: Training edges, which are also what `retrieve` leaves out: a `Dataset` or mapping with the columns
                `user_ids` and `item_ids`, or a sparse matrix [users, items].
            clusters: None for k-means with `config.num_clusters`; a label for each item [I], negative for none; or an
                estimator with `fit` and `predict`, such as `ProbabilisticPartition` or those of scikit-learn.
            users: Users whose mixtures are made [Q]; the others get the list of one vector. Default: all.
            cold_users: What is known of users without edges: nothing (`"popularity"`), as training does not move their
                embeddings; or their `"embedding"`, where it comes from elsewhere: neighbours give them a mixture.
            neighbour_search: `"exact"`, or `"hnsw"` for an approximate search by faiss.
            seed: Seed of k-means. Default: 0.

        Returns:
            `num_clusters`, `cluster_sizes`, `num_users_with_history`, `num_users_with_mixture` and
            `mean_num_components`.

        Raises:
            ValueError: If edges or clusters are malformed, or there are more clusters than different items.
        """
        if cold_users not in ("popularity", "embedding"):
            raise ValueError(f"cold_users={cold_users!r} must be 'popularity' or 'embedding'; give one of them")
        config, device = self.config, self.item_embeddings.weight.device
        history = make_history(edges, config.num_users, config.num_items)
        chosen = np.arange(config.num_users)
        if users is not None:
            chosen = np.unique(check_ids(id_array(users), "users", config.num_users, "users"))
        if not history.nnz:
            raise ValueError("edges has no edge; give at least one")
        vectors = normalise(self.item_embeddings.weight.detach().float())
        present = torch.from_numpy(np.bincount(history.indices, minlength=config.num_items) > 0).to(device)
        labels = labels_of(clusters, vectors, present, config.num_clusters, seed)
        if not (labels >= 0).any():
            raise ValueError("clusters puts no item with a training edge into a cluster; give one label of at least 0")
        labels, centroids = number_clusters(labels, vectors)
        if config.cold_items:
            cold = ~present
            labels[cold] = (vectors[cold] @ normalise(centroids).T).argmax(dim=1)
        has_history = torch.from_numpy(np.diff(history.indptr) > 0).to(device)
        moved = self.user_vectors().abs().amax(dim=1) > 0
        self.item_clusters, self.cluster_centroids = labels, centroids
        self.user_is_known = moved & (has_history | (cold_users == "embedding"))
        self.take_history(history)
        config.num_fitted_clusters, config.num_fitted_users = len(centroids), config.num_users
        indptr, names, weights = self.mixtures_of(chosen, history, neighbour_search)
        numbers = np.zeros(config.num_users, dtype=np.int64)
        numbers[chosen] = np.diff(indptr)
        self.take_mixture(np.concatenate([[0], numbers.cumsum()]), names, weights)
        lengths = self.mixture_indptr.diff()
        return {
            "num_clusters": len(centroids),
            "cluster_sizes": torch.bincount(labels[labels >= 0], minlength=len(centroids)).tolist(),
            "num_users_with_history": int(has_history.sum()),
            "num_users_with_mixture": int((lengths > 0).sum()),
            "mean_num_components": float(lengths.sum() / (lengths > 0).sum().clamp(min=1)),
        }

    def take_history(self, history: Any) -> None:
        """Keep training edges.

        Args:
            history: A `csr_array` of ones [U, I].
        """
        device = self.item_clusters.device
        self.history_indptr = torch.from_numpy(history.indptr.astype(np.int64)).to(device)
        self.history_items = torch.from_numpy(history.indices.astype(np.int64)).to(device)
        self.config.num_history_entries = len(history.indices)

    def take_mixture(self, indptr: Any, clusters: Any, weights: Any) -> None:
        """Keep mixtures, rows of which have their entries by falling weight.

        Args:
            indptr: [U + 1].
            clusters: Clusters of the entries.
            weights: Their weights.
        """
        device = self.item_clusters.device
        self.mixture_indptr = torch.from_numpy(indptr).to(device)
        self.mixture_clusters = torch.from_numpy(clusters).to(device)
        self.mixture_weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self.config.num_mixture_entries = len(clusters)

    def mixtures_of(
        self, users: Any, history: Any, search: Search, *, among: int | None = None
    ) -> tuple[Any, Any, Any]:
        """Compute the mixtures of some users.

        Args:
            users: The users [Q].
            history: Training edges of all users [U, I].
            search: How to find neighbours.
            among: Number of users, the first ones, who can be neighbours. Default: all.

        Returns:
            `indptr` [Q + 1], clusters and weights of the entries.
        """
        config = self.config
        counts = cluster_counts(history, self.item_clusters.cpu().numpy(), config.num_fitted_clusters)
        neighbours = None
        if config.smoothing == "knn":
            neighbours = self._neighbours(users, counts, search, among)
        others = counts if among is None else counts[:among]
        mixed = smooth(
            counts[users],
            others,
            smoothing=config.smoothing,
            pool=config.pool,
            neighbours=neighbours,
            lam=config.lam,
        )
        return keep_largest(mixed, config.max_components)

    def _neighbours(self, users: Any, counts: Any, search: Search, among: int | None) -> Any:
        """Nearest users with history [Q, k]; -1 for users of whom nothing is known."""
        ids = torch.from_numpy(users).to(self.item_clusters.device)
        vectors = self.user_vectors().float()
        able = self.user_is_known & torch.from_numpy(np.diff(counts.indptr) > 0).to(ids.device)
        candidates = able[:among].nonzero().squeeze(1)
        known = self.user_is_known[ids]
        found = torch.full((len(ids), self.config.num_neighbours), -1, device=ids.device)
        found[known] = nearest_users(
            vectors[ids[known]],
            ids[known],
            vectors[candidates],
            candidates,
            self.config.num_neighbours,
            search=_available(search),
        )
        return found.cpu().numpy()

    @torch.no_grad()
    def retrieve(
        self,
        user_ids: Any,
        k: int = 10,
        *,
        exclude: Sequence[Any] | None = None,
        mask_seen: bool = True,
        method: Literal["mixture", "one_vector", "popularity"] = "mixture",
        search: Search = "exact",
        batch_size: int = 8192,
    ) -> RetrievalOutput:
        """List items for users.

        A user with a mixture gets the best items of each of its clusters, as many as its weights say; a user without
        one, but with an embedding, the list of one vector; a user of whom nothing is known the most popular items.
        Lists of different k are not nested, because the number of slots of a cluster depends on k.

        Args:
            user_ids: Users [B].
            k: K, length of a list, at least 1. Where there are fewer items, lists end with the id -1.
            exclude: Items that must not be listed: one sequence of ids for each user. Default: none.
            mask_seen: Whether to leave out the items of a user's training edges as well. Default: True.
            method: `"mixture"`; for comparison `"one_vector"`, the largest scores of all items, or `"popularity"`.
            search: `"exact"`, or `"hnsw"`: approximate search by faiss in all that has 1,024 items or more. Without
                faiss a warning says that the search is exact.
            batch_size: Users that are searched for at once; it changes nothing but memory and time.

        Returns:
            The lists.

        Raises:
            ValueError: If the model has no mixture, an id is unknown, or an argument is out of range.
        """
        if not self.config.num_fitted_clusters:
            raise ValueError("the model has no clusters; call fit_mixture(edges) first")
        users = check_ids(id_array(user_ids), "user_ids", self.config.num_users, "users")
        if k < 1 or batch_size < 1:
            raise ValueError(f"k={k} and batch_size={batch_size} must be at least 1; raise them")
        if method not in ("mixture", "one_vector", "popularity"):
            raise ValueError(f"method={method!r} must be 'mixture', 'one_vector' or 'popularity'; give one of them")
        if exclude is not None and len(exclude) != len(users):
            raise ValueError(f"exclude has {len(exclude)} rows for {len(users)} users; give one sequence for each")
        hidden = None
        if exclude is not None:
            hidden = growth.rows_of(exclude, "exclude", self.config.num_items, "items")
        return retrieve(
            self, users, k, hidden=hidden, mask_seen=mask_seen, method=method, search=search, batch_size=batch_size
        )

    def item_index(self, search: Search = "exact") -> ItemIndex:
        """Return the index of the items, built when it is first asked for and when the embeddings have changed.

        Args:
            search: As for `retrieve`.

        Returns:
            The index.

        Raises:
            ValueError: If `search` is another word.
        """
        possible = _available(search)
        weight, clusters = self.item_embeddings.weight, self.item_clusters
        key = (possible, weight.data_ptr(), weight._version, clusters.data_ptr(), clusters._version, weight.shape)
        if self._index is None or self._index[0] != key:
            vectors = weight.detach().float()
            self._index = (key, ItemIndex(vectors, clusters, self.config.num_fitted_clusters, possible))
        return self._index[1]

    def components(self, user_ids: Any) -> tuple[Any, Any]:
        """Return the mixtures of some users as rows of one length.

        Args:
            user_ids: Users [B].

        Returns:
            Clusters [B, C], by falling weight, -1 where a user has fewer; and weights [B, C].

        Raises:
            ValueError: If an id is unknown.
        """
        users = check_ids(id_array(user_ids), "user_ids", self.config.num_users, "users")
        return padded_components(
            self.mixture_indptr.cpu().numpy(),
            self.mixture_clusters.cpu().numpy(),
            self.weights_of_mixtures(),
            users,
        )

    def add_users(self, histories: Sequence[Any], *, embeddings: Any = None) -> list[int]:
        """Add users to a fitted model; nothing changes for the others.

        Args:
            histories: Their items, one sequence of ids for each new user; empty where there are none.
            embeddings: Their embeddings [users, d]. Default: from their items by one half-step of implicit
                alternating least squares, see `docs/knn_embed.md`; users without items are not known then.

        Returns:
            Their ids.

        Raises:
            ValueError: If the model has no mixture, an item is unknown, or embeddings do not fit.

        Example:
            >>> import numpy as np
            >>> from hf_mixture import KnnEmbedModel
            >>> rng = np.random.default_rng(0)
            >>> model = KnnEmbedModel.from_embeddings(
            ...     rng.normal(size=(6, 4)), rng.normal(size=(20, 4)), num_clusters=3, num_neighbours=2
            ... )
            >>> edges = {"user_ids": rng.integers(0, 6, 40), "item_ids": rng.integers(0, 20, 40)}
            >>> _ = model.fit_mixture(edges)
            >>> model.add_users([[3, 5], []])
            [6, 7]
        """
        return growth.add_users(self, histories, embeddings)

    def add_items(self, users: Sequence[Any] | None = None, *, embeddings: Any = None) -> list[int]:
        """Add items to a fitted model; each joins the cluster with the nearest centroid.

        Clusters and mixtures stay as they are until `fit_mixture` is called again.

        Args:
            users: Users who have them already, one sequence of ids for each new item. Default: none.
            embeddings: Their embeddings [items, d]. Default: from their users, as `add_users` does from items.

        Returns:
            Their ids.

        Raises:
            ValueError: If the model has no mixture, a user is unknown, embeddings do not fit, or an item has neither
                users nor an embedding.
        """
        return growth.add_items(self, users, embeddings)

    def item_table(self, *, index: bool = True) -> Any:
        """Return the items as a `datasets.Dataset` with `item_id`, `cluster`, `num_edges` and `embedding`.

        Args:
            index: Whether to add an index of faiss, an HNSW graph for inner products, to the column `embedding`.

        Returns:
            The table, for `get_nearest_examples("embedding", model.user_vectors([user])[0].numpy())`.
        """
        return tables.item_table(self, index=index)

    def user_table(self, *, index: bool = True) -> Any:
        """Return the users as a `datasets.Dataset` with `user_id`, `clusters`, `weights` and `embedding`, u + r.

        Args:
            index: As for `item_table`.

        Returns:
            The table.
        """
        return tables.user_table(self, index=index)


def _available(search: str) -> str:
    """The search that can be done; says so where that is another."""
    if search not in ("exact", "hnsw"):
        raise ValueError(f"search={search!r} must be 'exact' or 'hnsw'; give one of them")
    if search == "hnsw" and not has_faiss():
        warnings.warn(
            'search="hnsw" needs faiss, which is not installed (pip install "hf-mixture[retrieval]"); the search is '
            "exact",
            stacklevel=3,
        )
        return "exact"
    return search
