"""Embeddings of users and items, and their losses: the part of kNN-Embed that is trained.

Letters: B edges or users of a batch, N negatives, U users, I items, d embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_mixture.models.knn_embed import losses
from hf_mixture.models.knn_embed.configuration_knn_embed import KnnEmbedConfig
from hf_mixture.models.knn_embed.edges import check_ids
from hf_mixture.models.knn_embed.growth import check_vectors


@dataclass
class KnnEmbedOutput(ModelOutput):
    """What a forward pass of a `KnnEmbedModel` returns.

    Args:
        loss: The loss of the edges, where negatives are given.
        scores: Scores of the edges [B].
        negative_scores: Scores of each user with the negatives [B, N].
    """

    loss: Tensor | None = None
    scores: Tensor | None = None
    negative_scores: Tensor | None = None


class BipartiteEmbeddings(PreTrainedModel):
    """Embeddings of users and items with the score (u + r) . i.

    Args:
        config: The configuration.
    """

    config_class = KnnEmbedConfig
    base_model_prefix = "knn_embed"
    main_input_name = "user_ids"
    # The Trainer divides by its accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: KnnEmbedConfig) -> None:
        config.check_sizes()
        super().__init__(config)
        size = config.embedding_size
        self.user_embeddings = nn.Embedding(config.num_users, size)
        self.item_embeddings = nn.Embedding(config.num_items, size)
        self.translation = nn.Embedding(1, size) if config.translation else None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.translation:
            init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)

    @classmethod
    def from_embeddings(cls, users: Any, items: Any, **fields: Any) -> Self:
        """Make a model of embeddings that come from elsewhere, such as matrix factorisation or sentences.

        Args:
            users: Embeddings of the users [U, d].
            items: Embeddings of the items [I, d].
            fields: Fields of `KnnEmbedConfig`; the sizes are taken from the embeddings.

        Returns:
            The model, without a translation.

        Raises:
            ValueError: If shapes do not fit, or a number is not finite.
        """
        for name, shape in (("users", np.shape(users)), ("items", np.shape(items))):
            if len(shape) != 2:
                raise ValueError(f"{name} has the shape {shape}; give one embedding in each row")
        (num_users, size), (num_items, other) = np.shape(users), np.shape(items)
        if size != other:
            raise ValueError(f"users has embeddings of {size} numbers and items of {other}; give equal sizes")
        vectors = (
            check_vectors(users, "users", (num_users, size)),
            check_vectors(items, "items", (num_items, size)),
        )
        sizes = {"num_users": num_users, "num_items": num_items, "embedding_size": size}
        model = cls(KnnEmbedConfig(**{"translation": False, **fields, **sizes}))
        with torch.no_grad():
            model.user_embeddings.weight.copy_(vectors[0])
            model.item_embeddings.weight.copy_(vectors[1])
        return model

    def forward(
        self,
        user_ids: Tensor,
        item_ids: Tensor,
        negatives: Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> KnnEmbedOutput | tuple[Any, ...]:
        """Score edges, and compute the loss where negatives are given.

        Args:
            user_ids: Users [B].
            item_ids: Their items [B].
            negatives: Other items, for all edges [N] or for each [B, N]; see `NegativeCollator`.
            return_loss: Whether to compute the loss where there are negatives. The Trainer reads from this default
                that it can report an evaluation loss.
            return_dict: Whether to return a `KnnEmbedOutput` rather than a tuple. Default: as the configuration says.

        Returns:
            The output.

        Raises:
            ValueError: If an id is unknown.
        """
        config = self.config
        for name, ids, size in (
            ("user_ids", user_ids, config.num_users),
            ("item_ids", item_ids, config.num_items),
            ("negatives", negatives, config.num_items),
        ):
            if ids is not None and ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= size):
                raise ValueError(
                    f"{name} has ids from {int(ids.min())} to {int(ids.max())}; give ids from 0 to {size - 1}"
                )
        users = self._translated(self.user_embeddings(user_ids))
        items = self.item_embeddings(item_ids)
        own = (users * items).sum(dim=-1)
        loss = scores = None
        if negatives is not None:
            others = self.item_embeddings(negatives)
            shared = negatives.dim() == 1
            scores = users @ others.T if shared else torch.einsum("bd,bnd->bn", users, others)
            if return_loss:
                loss = self._loss(own, scores, item_ids, negatives)
                if config.embedding_penalty:
                    lengths = users.square().sum(dim=-1).mean() + items.square().sum(dim=-1).mean()
                    loss = loss + config.embedding_penalty * lengths
        output = KnnEmbedOutput(loss=loss, scores=own, negative_scores=scores)
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _loss(self, scores: Tensor, negative_scores: Tensor, item_ids: Tensor, negatives: Tensor) -> Tensor:
        if self.config.loss == "twhin":
            return losses.twhin_loss(scores, negative_scores, negative_weight=self.config.negative_weight)
        if self.config.loss == "bpr":
            return losses.bpr_loss(scores, negative_scores)
        # The item itself is in the sum already.
        drawn = negatives == item_ids.unsqueeze(1)
        return losses.sampled_softmax_loss(scores, negative_scores.masked_fill(drawn, -torch.inf))

    def _translated(self, users: Tensor) -> Tensor:
        if self.translation is None:
            return users
        return users + self.translation(torch.zeros(1, dtype=torch.int64, device=users.device))

    @torch.no_grad()
    def user_vectors(self, user_ids: Any = None) -> Tensor:
        """Return what users search with, u + r.

        Args:
            user_ids: Users. Default: all.

        Returns:
            Vectors [users, d].

        Raises:
            ValueError: If an id is unknown.
        """
        weight = self.user_embeddings.weight.detach()
        if user_ids is None:
            return self._translated(weight)
        ids = check_ids(id_array(user_ids), "user_ids", self.config.num_users, "users")
        return self._translated(weight[torch.from_numpy(ids).to(weight.device)])


def id_array(ids: Any) -> Any:
    """Return ids as an array of numpy."""
    return ids.detach().cpu().numpy() if torch.is_tensor(ids) else np.asarray(ids)
