"""A multimodal recommender: identity rows and projected modality vectors, scored by their inner products.

Letters: U users, I items, B pairs, R users to recommend to, d embedding size, F feature size, M modalities, E edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_mixture.models.mm_recommender.configuration_mm_recommender import MultiModalRecommenderConfig
from hf_mixture.models.mm_recommender.features import fill_missing, join_features
from hf_mixture.models.mm_recommender.objective import forward_bpr
from hf_mixture.models.mm_recommender.propagation import normalised_adjacency, propagate


@dataclass
class MultiModalRecommenderOutput(ModelOutput):
    """What a forward pass of a recommender returns.

    Args:
        loss: Mean of forward BPR over the pairs, and the penalty.
        positive_scores: Score of each pair's item [B].
        negative_scores: Score of its negative [B].
        penalties: Squared norm of the rows of each pair, times the configuration's `penalty` [B].
    """

    loss: Tensor | None = None
    positive_scores: Tensor | None = None
    negative_scores: Tensor | None = None
    penalties: Tensor | None = None


class TrainedRows(NamedTuple):
    """Which identity rows the gradient of pairs may reach; all other parameters are constants to these pairs.

    Args:
        users: One flag for each user [U].
        items: One flag for each item [I].
        pairs: `"forget"`, the pairs flagged as such; or `"all"`.
    """

    users: Tensor
    items: Tensor
    pairs: str = "forget"


class Tables(NamedTuple):
    """Vectors whose inner products are the scores.

    Args:
        users: [U, 2d].
        items: [I, 2d], the second half from the modalities.
    """

    users: Tensor
    items: Tensor


class MultiModalRecommender(PreTrainedModel):
    """VBPR or a multimodal LightGCN (arXiv 1510.01784, 2002.02126), trained by BPR.

    s(u, i) = p_u . q_i + m_u . W f_i, with f_i the item's vectors of all modalities side by side.
    `"lightgcn_mm"` propagates p and q over the graph of interactions that `set_graph` gives; it is saved with the
    model. A row that lacks a modality has the mean of the items that have it.

    Args:
        config: The configuration.

    Attributes:
        trained_rows: Restricts which rows pairs train; None for no restriction. It is not saved.

    Example:
        >>> import torch
        >>> from hf_mixture import MultiModalRecommender, MultiModalRecommenderConfig
        >>> config = MultiModalRecommenderConfig(num_users=3, num_items=5, modality_sizes={"image": 4})
        >>> model = MultiModalRecommender(config)
        >>> model.set_features({"image": torch.randn(5, 4)})
        >>> tuple(model.recommend(torch.tensor([0, 2]), k=3).shape)
        (2, 3)
    """

    config_class = MultiModalRecommenderConfig
    base_model_prefix = ""
    features: Tensor
    has_modality: Tensor
    graph: Tensor
    main_input_name = "user_ids"
    accepts_loss_kwargs = False

    def __init__(self, config: MultiModalRecommenderConfig) -> None:
        config.check_sizes()
        super().__init__(config)
        self.users = nn.Embedding(config.num_users, 2 * config.embedding_size)
        self.items = nn.Embedding(config.num_items, config.embedding_size)
        # A bias would add the same number to all scores of a user, and no loss of pairs could train it.
        self.projection = nn.Linear(config.feature_size, config.embedding_size, bias=False)
        self.register_buffer("features", torch.zeros(config.num_items, config.feature_size))
        self.register_buffer(
            "has_modality", torch.zeros(config.num_items, len(config.modality_sizes), dtype=torch.bool)
        )
        self.register_buffer("graph", torch.zeros(2, config.num_edges, dtype=torch.long))
        self.trained_rows: TrainedRows | None = None
        self._adjacency: tuple[Tensor, Tensor] | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding | nn.Linear):
            init.xavier_uniform_(module.weight)

    def __getstate__(self) -> dict[str, Any]:
        # Sparse rows cannot be copied or pickled; they are made again from the graph.
        return {**self.__dict__, "_adjacency": None}

    def forward(  # noqa: PLR0917 - as the inputs of a batch
        self,
        user_ids: Tensor,
        item_ids: Tensor,
        negative_ids: Tensor,
        is_forget: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MultiModalRecommenderOutput | tuple[Any, ...]:
        """Score pairs and their negatives.

        Args:
            user_ids: User of each pair [B].
            item_ids: Its item [B].
            negative_ids: The item that it is compared with [B].
            is_forget: Whether the pair is to be forgotten [B]; read where `trained_rows` asks for it.
            labels: 0 for a pair to retain, 1 for one to forget [B], which `UnlearningLoss` reads; here they must be 0.
            return_dict: Whether to return an output object rather than a tuple. Default: as the configuration says.

        Returns:
            The output; its `loss` takes every pair as one to learn.

        Raises:
            ValueError: If an id is outside the catalogue, or a pair is labelled as one to forget.
        """
        if labels is not None and labels.any():
            raise ValueError(
                "labels has pairs to forget, and the loss of the model learns all pairs; give the Trainer "
                "compute_loss_func=UnlearningLoss(model, options)"
            )
        self._check_ids("user_ids", user_ids, self.config.num_users)
        for name, ids in (("item_ids", item_ids), ("negative_ids", negative_ids)):
            self._check_ids(name, ids, self.config.num_items)
        vectors, norms = self._pair_vectors(user_ids, item_ids, negative_ids)
        rows = self.trained_rows
        if rows is not None:
            masked, masked_norms = self._pair_vectors(user_ids, item_ids, negative_ids, rows)
            if rows.pairs == "all" or is_forget is None:
                vectors, norms = masked, masked_norms
            else:
                flags = is_forget.bool()
                vectors = [m.where(flags[:, None], v) for m, v in zip(masked, vectors, strict=True)]
        user, item, negative = vectors
        positive_scores = (user * item).sum(dim=-1)
        negative_scores = (user * negative).sum(dim=-1)
        penalties = self.config.penalty * norms
        output = MultiModalRecommenderOutput(
            loss=(forward_bpr(positive_scores - negative_scores) + penalties).mean(),
            positive_scores=positive_scores,
            negative_scores=negative_scores,
            penalties=penalties,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def tables(self) -> Tables:
        """The vectors of all users and items.

        Returns:
            The tables; scores are `users @ items.T`.
        """
        users, items = self._identity(None)
        half = self.config.embedding_size
        return Tables(
            torch.cat([users, self.users.weight[:, half:]], dim=1),
            torch.cat([items, self.projection(self.features)], dim=1),
        )

    @torch.no_grad()
    def recommend(self, user_ids: Tensor | Sequence[int], k: int = 20, *, exclude: Tensor | None = None) -> Tensor:
        """The items with the highest scores.

        Args:
            user_ids: Users [R].
            k: Number of items of each; where the catalogue is smaller, all of it comes back.
            exclude: Flags of items that a user may not get [R, I] or [I]. Such items come last.

        Returns:
            Items, best first [R, min(k, I)].

        Raises:
            ValueError: If an id is outside the catalogue, or k is below 1.
        """
        user_ids = torch.as_tensor(user_ids, device=self.device)
        if not user_ids.numel():
            user_ids = user_ids.long()
        self._check_ids("user_ids", user_ids, self.config.num_users)
        if k < 1:
            raise ValueError(f"k={k} must be at least 1; raise it")
        tables = self.tables()
        scores = tables.users[user_ids] @ tables.items.T
        if exclude is not None:
            scores = scores.masked_fill(exclude, -torch.inf)
        return scores.topk(min(k, scores.shape[1]), dim=1).indices

    @torch.no_grad()
    def set_features(self, features: Mapping[str, Tensor], has_modality: Mapping[str, Tensor] | None = None) -> None:
        """Give every item its vectors; they are L2-normalised, and items without one get the mean of the others.

        Args:
            features: Vectors of all items in each modality, by name [I, size].
            has_modality: Whether an item has the modality [I]. Default: whether its vector has a number but zero.

        Raises:
            ValueError: If a modality is missing or unknown, or its shape or a value does not fit.
        """
        joined, present = join_features(self.config, features, has_modality)
        self.has_modality.copy_(present)
        self.features.copy_(fill_missing(self.config, joined.to(self.features), self.has_modality))

    @torch.no_grad()
    def remove_modalities(self, items: Tensor, names: list[str]) -> None:
        """Replace modality vectors of items by the mean of the items that keep theirs; what was there is gone.

        Args:
            items: The items.
            names: The modalities.
        """
        for name in names:
            self.config.modality_slice(name)
            self.has_modality[items, list(self.config.modality_sizes).index(name)] = False
        self.features.copy_(fill_missing(self.config, self.features, self.has_modality))

    @torch.no_grad()
    def set_graph(self, user_ids: Tensor, item_ids: Tensor) -> None:
        """Give the interactions over which `"lightgcn_mm"` propagates; with `"vbpr"` none are kept.

        Args:
            user_ids: User of each interaction [E].
            item_ids: Its item [E].

        Raises:
            ValueError: If an id is outside the catalogue.
        """
        self._check_ids("user_ids", user_ids, self.config.num_users)
        self._check_ids("item_ids", item_ids, self.config.num_items)
        if self.config.backbone == "vbpr":
            return
        pairs = torch.stack([user_ids, item_ids]).to(self.graph.device, torch.long).unique(dim=1)
        self.config.num_edges = pairs.shape[1]
        self.graph = pairs

    def _adjacency_matrix(self) -> Tensor:
        # The graph may have been set, loaded or moved since, and the model may have another type.
        dtype = torch.promote_types(self.dtype, torch.float32)
        if self._adjacency is None or self._adjacency[0] is not self.graph or self._adjacency[1].dtype != dtype:
            users, items = self.graph
            matrix = normalised_adjacency(users, items, self.config.num_users, self.config.num_items, dtype)
            self._adjacency = (self.graph, matrix)
        return self._adjacency[1]

    def _identity(self, rows: TrainedRows | None) -> tuple[Tensor, Tensor]:
        """Identity vectors of all users [U, d] and items [I, d]."""
        half = self.config.embedding_size
        users, items = self.users.weight[:, :half], self.items.weight
        if rows is not None:
            users = users.where(rows.users[:, None], users.detach())
            items = items.where(rows.items[:, None], items.detach())
        if self.config.backbone == "vbpr":
            return users, items
        found = propagate(torch.cat([users, items]), self._adjacency_matrix(), self.config.num_propagation_layers)
        return found[: self.config.num_users], found[self.config.num_users :]

    def _pair_vectors(
        self, user_ids: Tensor, item_ids: Tensor, negative_ids: Tensor, rows: TrainedRows | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Vectors of user, item and negative of each pair [B, 2d], and the squared norms of their rows [B]."""
        half = self.config.embedding_size
        user = self.users(user_ids)
        both = torch.cat([item_ids, negative_ids])
        item = self.items(both)
        visual = self.projection(self.features[both])
        if rows is not None:
            user = user.where(rows.users[user_ids, None], user.detach())
            item = item.where(rows.items[both, None], item.detach())
            visual = visual.detach()
        norms = user.square().sum(-1) + item.square().sum(-1).view(2, -1).sum(0)
        if self.config.backbone == "lightgcn_mm":
            users, items = self._identity(rows)
            user, item = torch.cat([users[user_ids], user[:, half:]], dim=1), items[both]
        first, second = torch.cat([item, visual], dim=1).chunk(2)
        return [user, first, second], norms

    @staticmethod
    def _check_ids(name: str, ids: Tensor, size: int) -> None:
        if ids.is_floating_point():
            raise ValueError(f"{name} has the type {ids.dtype}; give integers")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise ValueError(f"{name} has ids from {int(ids.min())} to {int(ids.max())}; they must be 0 to {size - 1}")
