"""A mixture of SuperNets: M networks, each able to pool along every path, and the scores that bring paths to models.

Letters: B images, C channels, H height, W width, K classes, P paths, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils.generic import can_return_tuple

from hf_mixture.models.pooling_supernet.balance import Balance, assignment, balance
from hf_mixture.models.pooling_supernet.batches import collate_rows, rows_of
from hf_mixture.models.pooling_supernet.checks import check_images
from hf_mixture.models.pooling_supernet.configuration_balanced_supernet import BalancedSuperNetConfig
from hf_mixture.models.pooling_supernet.costs import count_multiply_adds
from hf_mixture.models.pooling_supernet.modeling_pooling_resnet import PoolingResNetForImageClassification
from hf_mixture.models.pooling_supernet.path_tree import logits_of_paths
from hf_mixture.models.pooling_supernet.paths import Path, check_path, enumerate_paths, layers_of
from hf_mixture.models.pooling_supernet.sampling import choose_model, draw_path


class Entry(NamedTuple):
    """A path in one of the models.

    Args:
        path: Index of the path.
        model: Index of the model.
    """

    path: int
    model: int


class BalancedSuperNetMixture(PreTrainedModel):
    """A search for where to pool, by networks that share weights and paths that choose among them (arXiv 2306.11982).

    Each step trains one path in one model: the path i is uniform, the model j is drawn from row i of
    softmax(tau W - sum_k log m_k), the softmax of the scores W balanced so that every model has the same load. The
    accuracy of (i, j) on a validation batch then moves W_ij <- decay W_ij + (1 - decay) accuracy. Scores begin at 1,
    so that pairs not tried yet stay attractive. The stock Trainer trains it, with a `SuperNetSearchCallback`; all that
    the search knows is in buffers, so that checkpoints resume it.

    Outside of a search, the model answers as its best path does.

    Args:
        config: The configuration.

    Example:
        >>> import torch
        >>> from hf_mixture import BalancedSuperNetConfig, BalancedSuperNetMixture
        >>> network = {"num_channels": 1, "layer_widths": [4, 4, 4, 8], "num_labels": 10}
        >>> config = BalancedSuperNetConfig(network_config=network, num_models=2, num_scales=2)
        >>> mixture = BalancedSuperNetMixture(config)
        >>> rows = [{"pixel_values": torch.randn(1, 8, 8), "labels": label} for label in range(10)]
        >>> tuple(mixture.evaluate_paths(rows, progress=False).shape)
        (3, 2)
        >>> network = mixture.extract([2, 2])
        >>> type(network).__name__, network.config.pooling_path
        ('PoolingResNetForImageClassification', [0, 0, 1, 0])
    """

    config_class = BalancedSuperNetConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["_Block"]  # noqa: RUF012 - an attribute of transformers
    accepts_loss_kwargs = False

    scores: Tensor
    visits: Tensor
    log_marginals: Tensor
    temperature: Tensor
    accuracies: Tensor

    def __init__(self, config: BalancedSuperNetConfig) -> None:
        config.check()
        super().__init__(config)
        self.num_labels = config.network.num_labels
        self.paths: list[Path] = enumerate_paths(config.network.num_layers, config.num_scales)
        self.networks = nn.ModuleList(
            PoolingResNetForImageClassification(config.network) for _ in range(config.num_models)
        )
        size = (len(self.paths), config.num_models)
        self.register_buffer("scores", torch.ones(size))
        self.register_buffer("visits", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("log_marginals", torch.zeros(config.num_models))
        self.register_buffer("temperature", torch.ones(()))
        # Accuracies of the search's end; below 0 where there are none yet.
        self.register_buffer("accuracies", torch.full(size, -1.0))
        self._active: Entry | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights to the networks, which draw their own."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        path: int | Sequence[int] | None = None,
        model_index: int | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutputWithNoAttention:
        """Classify images along one path in one model.

        Args:
            pixel_values: Images [B, C, H, W].
            labels: Classes [B], for the loss, a cross-entropy.
            path: The path: its index, its zeros and ones, or its numbers of layers. Default: in a search, that of the
                step; otherwise the best.
            model_index: The model, with `path`. Default: the best for that path.
            kwargs: `return_dict`, as every model takes it.

        Returns:
            Loss and logits [B, K].

        Raises:
            ValueError: Images or labels do not fit the networks or each other, or are not finite; there is no such
                path or model; or the model is in training and there is neither a path nor a search.
        """
        entry = self._entry(path, model_index)
        check_images(
            pixel_values,
            labels,
            num_channels=self.config.network.num_channels,
            num_labels=self.num_labels,
            least_size=2 ** (self.config.num_scales - 1),
        )
        network = self._network(entry.model)
        logits = network.classify(network.backbone.hidden_states(pixel_values, self.paths[entry.path])[-1])
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else F.cross_entropy(logits.float(), labels.long()), logits=logits
        )

    def _entry(self, path: int | Sequence[int] | None, model_index: int | None) -> Entry:
        if path is None:
            if model_index is not None:
                raise ValueError(f"model_index={model_index} without a path; give both")
            if not self.training:
                return self.best()
            if self._active is None:
                raise ValueError(
                    "no path is chosen to train; add a SuperNetSearchCallback to the Trainer, or give path and "
                    "model_index"
                )
            return self._active
        index = self.index_of(path)
        if model_index is None:
            return Entry(index, int(self._merits()[index].argmax()))
        if not 0 <= model_index < self.config.num_models:
            raise ValueError(
                f"model_index={model_index} is no model; there are {self.config.num_models}, counted from 0"
            )
        return Entry(index, model_index)

    def _network(self, model_index: int) -> PoolingResNetForImageClassification:
        network = self.networks[model_index]
        assert isinstance(network, PoolingResNetForImageClassification)  # noqa: S101 - the constructor makes them
        return network

    def index_of(self, path: int | Sequence[int]) -> int:
        """Find a path.

        Args:
            path: Its index, its zeros and ones [L], or its numbers of layers [S].

        Returns:
            Its index.

        Raises:
            ValueError: There is no such path.
        """
        # Arrays and tensors of one number are indices too.
        if np.ndim(path) == 0:
            index = int(path)  # type: ignore[arg-type]
            if not 0 <= index < len(self.paths):
                raise ValueError(f"path={index} is no path; there are {len(self.paths)}, counted from 0")
            return index
        given = tuple(int(entry) for entry in path)  # type: ignore[union-attr]
        by_layers = {layers_of(known): index for index, known in enumerate(self.paths)}
        if given in by_layers:
            return by_layers[given]
        check_path(given, self.config.network.num_layers)
        if given not in self.paths:
            raise ValueError(
                f"path={list(given)} has {sum(given) + 1} scales; the paths of this search have "
                f"{self.config.num_scales}"
            )
        return self.paths.index(given)

    def activate(self, entry: Entry | None) -> None:
        """Choose what the next steps train.

        Args:
            entry: Path and model; None for nothing.
        """
        self._active = entry

    def rebalance(self, temperature: float) -> Balance | None:
        """Set the temperature, and find the marginals that balance the assignment until the next time.

        Args:
            temperature: tau.

        Returns:
            What balancing found; None where the assignment is not balanced.

        Raises:
            ValueError: The scores cannot be balanced.
        """
        self.temperature.fill_(temperature)
        if self.config.assignment != "balanced":
            return None
        found = balance(temperature * self.scores.double(), tolerance=self.config.balance_tolerance)
        self.log_marginals.copy_(found.log_marginals)
        return found

    def assignment(self) -> Tensor:
        """Compute the probability of each model for each path, by the present scores and the last marginals.

        Returns:
            Probabilities in float64 [P, M].
        """
        if self.config.assignment == "uniform":
            return torch.full(self.scores.shape, 1 / self.config.num_models, dtype=torch.float64)
        return assignment(self.temperature.double() * self.scores.double(), self.log_marginals)

    def draw(self, *, seed: int, step: int) -> Entry:
        """Draw a path, uniformly, and its model; seed and step decide, so that all processes draw the same.

        Args:
            seed: Seed of the search.
            step: The step, counted from 0.

        Returns:
            Path and model.
        """
        path, number = draw_path(len(self.paths), seed=seed, step=step)
        return Entry(path, choose_model(self.assignment()[path], number))

    def record(self, entry: Entry, accuracy: float) -> None:
        """Take in the accuracy of a path in a model on a validation batch.

        Args:
            entry: Path and model.
            accuracy: From 0 to 1.

        Raises:
            ValueError: The accuracy is out of range.
        """
        if not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy={accuracy} must be from 0 to 1")
        decay = self.config.score_decay
        self.scores[entry] = decay * self.scores[entry] + (1 - decay) * accuracy
        self.visits[entry] += 1

    @torch.no_grad()
    def evaluate_paths(
        self, dataset: Any, *, batch_size: int = 500, data_collator: Any = None, progress: bool = True
    ) -> Tensor:
        """Measure the accuracy of every path in every model, and keep it in `accuracies`.

        Networks normalise by the statistics of a batch, so batches should be large and the same in what is compared.
        Paths share what they have in common.

        Args:
            dataset: Rows with `pixel_values` [C, H, W] and `labels`.
            batch_size: Images at once, at least 1. Default: 500.
            data_collator: Makes batches of rows. Default: that of transformers.
            progress: Whether to show a progress bar.

        Returns:
            Accuracies [P, M].

        Raises:
            ValueError: The data set is empty, or a batch cannot be used.
        """
        if batch_size < 1 or len(dataset) < 1:
            raise ValueError(f"batch_size={batch_size} and the {len(dataset)} rows of dataset must be at least 1")
        right = torch.zeros(self.accuracies.shape, dtype=torch.int64)
        starts = range(0, len(dataset), batch_size)
        work = [(start, model) for start in starts for model in range(self.config.num_models)]
        for start, model in tqdm(work, desc="paths in models", disable=not progress):
            rows = rows_of(dataset, range(start, min(start + batch_size, len(dataset))))
            batch = collate_rows(rows, data_collator, self.device)
            check_images(
                batch["pixel_values"],
                batch["labels"],
                num_channels=self.config.network.num_channels,
                num_labels=self.num_labels,
                least_size=2 ** (self.config.num_scales - 1),
            )
            for path, logits in logits_of_paths(self._network(model), batch["pixel_values"], self.paths):
                right[path, model] += int((logits.argmax(dim=-1) == batch["labels"]).sum())
        self.accuracies.copy_(right / len(dataset))
        return self.accuracies.clone()

    def path_scores(self) -> Tensor:
        """Give each path its accuracy in the model that is best for it; after `evaluate_paths`.

        Returns:
            Accuracies [P].

        Raises:
            ValueError: There are no accuracies yet.
        """
        if (self.accuracies < 0).any():
            raise ValueError("the paths have not been evaluated; call evaluate_paths(validation_data) first")
        return self.accuracies.amax(dim=1)

    def _merits(self) -> Tensor:
        """Accuracies of the end where there are, otherwise scores of what was tried [P, M]."""
        if (self.accuracies >= 0).all():
            return self.accuracies
        return torch.where(self.visits > 0, self.scores, torch.full_like(self.scores, -1.0))

    def best(self, *, max_multiply_adds: int | None = None, image_size: int | tuple[int, int] | None = None) -> Entry:
        """Find the best path and its model: by `accuracies` after `evaluate_paths`, otherwise by the scores.

        Args:
            max_multiply_adds: Largest number of multiplications of one image. Default: any.
            image_size: Height and width of the images, with `max_multiply_adds`.

        Returns:
            Path and model, the first of equally good ones.

        Raises:
            ValueError: Nothing has been searched or evaluated, or no path is as cheap.
        """
        merits = self._merits().clone()
        if max_multiply_adds is not None:
            if image_size is None:
                raise ValueError("max_multiply_adds needs image_size, on which the cost of a path depends; give it")
            costs = [count_multiply_adds(self.config.network, image_size, path) for path in self.paths]
            if min(costs) > max_multiply_adds:
                raise ValueError(
                    f"max_multiply_adds={max_multiply_adds:,} is less than the cheapest path needs, {min(costs):,}"
                )
            merits[torch.tensor(costs) > max_multiply_adds] = -1.0
        if (merits < 0).all():
            raise ValueError(
                "nothing has been searched yet; train with a SuperNetSearchCallback, or call evaluate_paths"
            )
        return Entry(*divmod(int(merits.argmax()), self.config.num_models))

    def extract(
        self, path: int | Sequence[int] | None = None, *, model_index: int | None = None
    ) -> PoolingResNetForImageClassification:
        """Copy one path out of one model, as an ordinary image classifier.

        Its weights are those that the paths of that model share; for the best accuracy, train a network of its
        configuration from scratch.

        Args:
            path: The path, as in `index_of`. Default: the best.
            model_index: The model. Default: the best for that path.

        Returns:
            The classifier, in evaluation mode.

        Raises:
            ValueError: There is no such path or model, or none has been searched.
        """
        entry = self.best() if path is None and model_index is None else self._entry(path, model_index)
        fields = self.config.network.to_dict() | {"pooling_path": list(self.paths[entry.path])}
        network = PoolingResNetForImageClassification(type(self.config.network).from_dict(fields))
        network.load_state_dict(self._network(entry.model).state_dict())
        return network.to(self.device).eval()
