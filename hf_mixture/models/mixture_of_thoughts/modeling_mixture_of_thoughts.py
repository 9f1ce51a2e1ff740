"""Mixture of Thoughts: a model of frozen causal language models that attend to one another.

Letters: B rows, M experts, T tokens, N tokens of all peers, R latent size.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from hf_mixture._compat.bitsandbytes import keep_4bit_layout
from hf_mixture.models.mixture_of_thoughts.configuration_mixture_of_thoughts import MixtureOfThoughtsConfig
from hf_mixture.models.mixture_of_thoughts.encoding import Rendered
from hf_mixture.models.mixture_of_thoughts.generation import MixtureOfThoughtsGeneration, generate
from hf_mixture.models.mixture_of_thoughts.interaction import InteractionLevel, UpProjection
from hf_mixture.models.mixture_of_thoughts.interplay import ExpertInputs, predict
from hf_mixture.models.mixture_of_thoughts.objective import Group, language_modelling_loss, mean_consistency
from hf_mixture.models.mixture_of_thoughts.prompt_features import prompt_features
from hf_mixture.models.mixture_of_thoughts.references import load_expert, reference_of
from hf_mixture.models.mixture_of_thoughts.router import (
    PromptRouter,
    Routing,
    balance_loss,
    drop_peers,
    entropy_loss,
    expert_nll_loss,
    gumbel_noise,
    route,
)
from hf_mixture.models.mixture_of_thoughts.saving import load, save
from hf_mixture.models.mixture_of_thoughts.stacks import decoder_layers, stack_ends
from hf_mixture.models.mixture_of_thoughts.thinking import BoundaryHook, InputHook


if TYPE_CHECKING:
    from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


@dataclass
class MixtureOfThoughtsOutput(ModelOutput):
    """What a forward pass of a mixture returns.

    Args:
        loss: The objective, where labels are given.
        lm_loss: Mean cross-entropy of the primary on its labels, in nats per token.
        entropy_loss: Minus the entropy of the router.
        balance_loss: Squared coefficient of variation of the routing probabilities.
        consistency_loss: Divergence between the predictions of two noisy routings.
        expert_nll_loss: Cross-entropy of the router against the experts' own losses.
        logits: Of the primary of each row [B, T, V]; where rows have primaries with different vocabularies or lengths,
            V and T are the largest, and the rest is -inf. None in training with several primaries.
        router_logits: Scores of the router [B, M].
        active: Which experts were active [B, M].
        primary: Which expert answered [B].
    """

    loss: Tensor | None = None
    lm_loss: Tensor | None = None
    entropy_loss: Tensor | None = None
    balance_loss: Tensor | None = None
    consistency_loss: Tensor | None = None
    expert_nll_loss: Tensor | None = None
    logits: Tensor | None = None
    router_logits: Tensor | None = None
    active: Tensor | None = None
    primary: Tensor | None = None


class MixtureOfThoughtsForCausalLM(PreTrainedModel):
    """Frozen language models of different families, widths and tokenizers that answer together (arXiv 2509.21164).

    Peers run once; their states at the stack boundaries reach the primary through trained interaction levels, masked
    by the characters of the common text. Only the router and those levels are trained.

    Args:
        config: The configuration.
        experts: The live experts; built from the configuration with random weights if None.
        prompt_encoder: The live encoder of prompts, for a configuration that has one.

    Example:
        >>> from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
        >>> from hf_mixture import MixtureOfThoughtsForCausalLM
        >>> llama = LlamaConfig(
        ...     vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2
        ... )
        >>> gpt2 = GPT2Config(vocab_size=8, n_embd=24, n_layer=3, n_head=2)
        >>> experts = [AutoModelForCausalLM.from_config(config) for config in (llama, gpt2)]
        >>> model = MixtureOfThoughtsForCausalLM.from_experts(experts, num_levels=3, latent_size=8, num_heads=2)
        >>> len(model.interactions), model.num_experts
        (2, 2)
    """

    config_class = MixtureOfThoughtsConfig
    base_model_prefix = ""
    # The Trainer counts the elements of this one, if the batch has it; a mixture has ids in several vocabularies.
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # The Trainer divides by its accumulation steps; the tokenizers of a batch count tokens in different units.
    accepts_loss_kwargs = False
    _keys_to_ignore_on_save = [r"^expert_\d+\.", r"^prompt_encoder\."]  # noqa: RUF012 - as transformers declares it
    _keys_to_ignore_on_load_missing = [r"^expert_\d+\.", r"^prompt_encoder\."]  # noqa: RUF012

    def __init__(
        self,
        config: MixtureOfThoughtsConfig,
        experts: Sequence[PreTrainedModel] | None = None,
        prompt_encoder: PreTrainedModel | None = None,
    ) -> None:
        config.check_sizes()
        super().__init__(config)
        if experts is None:
            experts = [AutoModelForCausalLM.from_config(expert) for expert in config.experts or []]
        if prompt_encoder is None and config.prompt_encoder is not None:
            prompt_encoder = AutoModel.from_config(config.prompt_encoder)
        texts = [expert.config.get_text_config(decoder=True) for expert in experts]
        widths = [text.hidden_size for text in texts]
        self.levels = nn.ModuleList(
            InteractionLevel(widths, config.latent_size, config.num_heads) for _ in range(config.num_interactions)
        )
        features = widths[0] if prompt_encoder is None else prompt_encoder.config.hidden_size
        self.router = PromptRouter(features, len(experts), config.router_hidden_size, config.router_dropout)
        self.post_init()
        # Mixtures may share experts, also with one that another process has made and pickled.
        self.mixture_id = uuid.uuid4().hex
        self._attach(experts, prompt_encoder)

    @classmethod
    def from_experts(
        cls,
        experts: Sequence[PreTrainedModel | str | os.PathLike[str]],
        *,
        prompt_encoder: PreTrainedModel | str | os.PathLike[str] | None = None,
        expert_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **config: Any,
    ) -> MixtureOfThoughtsForCausalLM:
        """Build a new mixture of pretrained experts.

        Args:
            experts: Causal language models, or folders and repositories to load them from.
            prompt_encoder: Text encoder for the router, or where to load it from. None: the states of the first
                expert.
            expert_kwargs: Passed on to `from_pretrained` of each expert, such as a type, a device or a quantisation;
                one mapping for all, or one for each.
            config: Fields of `MixtureOfThoughtsConfig`.

        Returns:
            A mixture that computes exactly what its primary computes, until it is trained.

        Raises:
            ValueError: If there are no experts, one of them is no decoder, or a field does not fit.
        """
        experts = list(experts)
        kwargs = expert_kwargs if isinstance(expert_kwargs, Sequence) else [expert_kwargs or {}] * len(experts)
        if len(kwargs) != len(experts):
            raise ValueError(f"expert_kwargs has {len(kwargs)} entries for {len(experts)} experts; give one for each")
        loaded = [load_expert(expert, **more) for expert, more in zip(experts, kwargs, strict=True)]
        for expert in loaded:
            decoder_layers(expert)
        encoder: PreTrainedModel | None = None
        if prompt_encoder is not None:
            given = isinstance(prompt_encoder, PreTrainedModel)
            encoder = prompt_encoder if given else AutoModel.from_pretrained(prompt_encoder)
        settings = MixtureOfThoughtsConfig(
            experts=[expert.config for expert in loaded],
            references=[reference_of(expert) for expert in loaded],
            prompt_encoder=None if encoder is None else encoder.config,
            prompt_encoder_reference=None if encoder is None else reference_of(encoder),
            **config,
        )
        return cls(settings, experts=loaded, prompt_encoder=encoder)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        expert_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        verify_experts: bool = True,
        config: MixtureOfThoughtsConfig | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> MixtureOfThoughtsForCausalLM:
        """Load a mixture: its experts from where they come from, and its own weights.

        Args:
            name: Folder, or repository on the Hub.
            expert_kwargs: For `from_pretrained` of the experts: one mapping for all, or one for each.
            verify_experts: Whether to check that the weights of the experts are those that the mixture was trained
                with.
            config: Configuration to use instead of that of the folder.
            revision: Branch, tag or commit of the repository.
            kwargs: For `from_pretrained` of all experts, such as `dtype`; those of downloads, such as `token` and
                `cache_dir`, for the mixture too.

        Returns:
            The mixture, in evaluation mode.

        Raises:
            ValueError: If an expert is missing or has changed, or the weights do not fit.
        """
        return load(
            cls,
            name,
            expert_kwargs=expert_kwargs,
            verify_experts=verify_experts,
            config=config,
            revision=revision,
            **kwargs,
        )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        save_experts: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the router and the interaction levels, and where the experts come from.

        Args:
            save_directory: Folder.
            save_experts: Whether to save the experts too, into sub-folders.
            state_dict: Weights to save instead of those of the model.
            is_main_process: Whether this process writes.
            push_to_hub: Whether to upload the folder.
            kwargs: For `push_to_hub`: `repo_id`, `private`, `commit_message` and `token`.

        Raises:
            ValueError: If an expert was never loaded by name and is not saved either.
        """
        if not is_main_process:
            return
        folder = Path(save_directory)
        save(self, folder, save_experts=save_experts, state_dict=state_dict)
        if push_to_hub:
            from huggingface_hub import HfApi

            api = HfApi(token=kwargs.get("token"))
            repo = api.create_repo(kwargs.get("repo_id") or folder.name, exist_ok=True, private=kwargs.get("private"))
            api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message=kwargs.get("commit_message"))

    @property
    def interactions(self) -> list[InteractionLevel]:
        """The interaction levels."""
        return list(self.levels)  # type: ignore[arg-type]

    @property
    def experts(self) -> list[PreTrainedModel]:
        """The experts in their order."""
        return [getattr(self, f"expert_{index}") for index in range(self.num_experts)]

    def forward(
        self,
        expert_inputs: ExpertInputs,
        encoder_inputs: Mapping[str, Tensor],
        *,
        prompts: Any = None,
        primary: Tensor | None = None,
        expert_nll: Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> MixtureOfThoughtsOutput | tuple[Any, ...]:
        """Route each row, run its peers, and let its primary predict the text.

        Args:
            expert_inputs: For each expert `input_ids`, `attention_mask`, `query_ends`, `key_ends` and, for a loss,
                `labels`, all [B, T], as `MixtureOfThoughtsProcessor` makes them.
            encoder_inputs: `input_ids` and `attention_mask` of the prompt, for the router.
            prompts: Unused; `generate` needs them.
            primary: Experts that must answer [B]; else the router decides.
            expert_nll: Loss of each expert on each row [B, M], in bits per byte, for `expert_nll_coefficient`.
            return_loss: Whether to compute the loss where there are labels. The Trainer reads from this default that
                it can report an evaluation loss.
            return_dict: Whether to return a `MixtureOfThoughtsOutput` rather than a tuple. Default: as the
                configuration says.

        Returns:
            Losses, logits and the routing.

        Raises:
            ValueError: If the inputs are not those of these experts.
        """
        if len(expert_inputs) != self.num_experts:
            raise ValueError(
                f"expert_inputs has {len(expert_inputs)} entries and the mixture {self.num_experts} experts; make "
                "them with the processor of this mixture"
            )
        scores = self.route_scores(encoder_inputs)
        routing = self._decide(scores, primary)
        groups = predict(self, expert_inputs, routing)
        losses: dict[str, Tensor] = {}
        if return_loss and "labels" in expert_inputs[0]:
            losses = self._objective(groups, expert_inputs, expert_nll, routing)
        output = MixtureOfThoughtsOutput(
            **losses,
            logits=_join(groups, len(scores)) if not self.training or len(groups) == 1 else None,
            router_logits=scores,
            active=routing.active,
            primary=routing.primary,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def route_scores(self, encoder_inputs: Mapping[str, Tensor]) -> Tensor:
        """Score the experts for prompts.

        Args:
            encoder_inputs: `input_ids` and `attention_mask` of the prompts [B, T].

        Returns:
            Scores of the router [B, M].
        """
        features = prompt_features(self, encoder_inputs)
        scores: Tensor = self.router(features) / self.config.router_temperature
        return scores

    def generate(
        self,
        expert_inputs: ExpertInputs,
        encoder_inputs: Mapping[str, Tensor],
        *,
        prompts: Sequence[Sequence[Rendered]] | None = None,
        primary: Tensor | None = None,
        processor: MixtureOfThoughtsProcessor | None = None,
        **kwargs: Any,
    ) -> MixtureOfThoughtsGeneration:
        """Write on: the primary of each row generates, and hears its peers at every step.

        Args:
            expert_inputs: From the processor, for prompts without answers.
            encoder_inputs: From the processor.
            prompts: From the processor; needed for `peer_decode="stream"`.
            primary: Experts that must answer [B]; else the router decides.
            processor: The tokenizers; needed for `peer_decode="stream"`, where peers read what is written.
            kwargs: For the `generate` of the primary: `max_new_tokens`, `num_beams`, `do_sample` and so on.

        Returns:
            Sequences in the vocabulary of the primary of each row; `processor.batch_decode` turns them into texts.

        Raises:
            ValueError: For ways to generate that a mixture cannot follow: assisted decoding, prompt look-up, static
                and given caches, streamers.
        """
        return generate(
            self, expert_inputs, encoder_inputs, prompts=prompts, primary=primary, processor=processor, **kwargs
        )

    def generate_batch(self, *_: Any, **__: Any) -> None:
        """Refuse: the paged cache of continuous batching has no place for latents.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("continuous batching does not work with a mixture of thoughts; use generate")

    def train(self, mode: bool = True) -> MixtureOfThoughtsForCausalLM:
        """Set the mode of the router and the levels; experts stay in evaluation mode, without dropout."""
        super().train(mode)
        for module in [*self.experts, self.prompt_encoder]:
            if module is not None:
                module.eval()
        for layer in itertools.chain(*map(decoder_layers, self.experts)):
            # A layer recomputes its activations only while it says that it trains; see _set_gradient_checkpointing.
            layer.training = mode and getattr(layer, "gradient_checkpointing", False)
        return self

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = torch.utils.checkpoint.checkpoint,
        **kwargs: Any,
    ) -> None:
        def in_evaluation_mode(function: Any, *args: Any) -> Any:
            layer = function.args[0]

            def body(*inner: Any) -> Any:
                layer.training = False
                try:
                    return function(*inner)
                finally:
                    layer.training = True

            return gradient_checkpointing_func(body, *args)

        super()._set_gradient_checkpointing(enable, in_evaluation_mode, **kwargs)
        self.train(self.training)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, UpProjection):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)

    def _attach(self, experts: Sequence[PreTrainedModel], prompt_encoder: PreTrainedModel | None) -> None:
        """Freeze the experts and let their stack boundaries be seen."""
        self.num_experts = len(experts)
        # Attributes rather than a list: transformers looks for tied and unsplittable modules among these only.
        for index, expert in enumerate(experts):
            keep_4bit_layout(expert)
            setattr(self, f"expert_{index}", expert.requires_grad_(False).eval())
            expert.register_forward_pre_hook(InputHook(self.mixture_id, index), with_kwargs=True)
            layers = decoder_layers(expert)
            ends = stack_ends(len(layers), self.config.num_levels)[: self.config.num_interactions]
            for level, end in enumerate(ends):
                layers[end - 1].register_forward_hook(BoundaryHook(self.mixture_id, index, level))
        self.prompt_encoder = None if prompt_encoder is None else prompt_encoder.requires_grad_(False).eval()
        unsplit = [set(expert._no_split_modules or ()) for expert in experts]
        self._no_split_modules = set().union(*unsplit)

    def _decide(self, scores: Tensor, primary: Tensor | None) -> Routing:
        noise = None
        if self.training and self.config.selection_noise > 0:
            noise = gumbel_noise(scores, self.config.selection_noise)
        routing = route(scores, self.config.num_active_experts, noise=noise, primary=primary)
        if self.training and self.config.expert_dropout > 0:
            routing = drop_peers(routing, self.config.expert_dropout)
        return routing

    def _objective(
        self, groups: Sequence[Group], expert_inputs: ExpertInputs, expert_nll: Tensor | None, routing: Routing
    ) -> dict[str, Tensor]:
        """The objective and its parts, by the names of the output."""
        config, scores = self.config, routing.scores
        parts = {
            "lm_loss": language_modelling_loss(groups, expert_inputs).to(scores.device),
            "entropy_loss": entropy_loss(scores),
            "balance_loss": balance_loss(scores),
        }
        loss = parts["lm_loss"] + config.entropy_coefficient * parts["entropy_loss"]
        loss = loss + config.balance_coefficient * parts["balance_loss"]
        if config.expert_nll_coefficient > 0:
            if expert_nll is None:
                raise ValueError(
                    f"expert_nll_coefficient={config.expert_nll_coefficient} needs expert_nll in the batch; compute "
                    "it with score_experts"
                )
            targets = expert_nll.to(scores.device, scores.dtype)
            parts["expert_nll_loss"] = expert_nll_loss(scores, targets, config.expert_nll_temperature)
            loss = loss + config.expert_nll_coefficient * parts["expert_nll_loss"]
        if config.consistency_coefficient > 0 and self.training:
            again = predict(self, expert_inputs, self._decide(scores, routing.primary))
            parts["consistency_loss"] = mean_consistency(groups, again, expert_inputs).to(scores.device)
            loss = loss + config.consistency_coefficient * parts["consistency_loss"]
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            # Experts that no row of this process uses must take part in the reduction of gradients.
            trained = [parameter.sum() for parameter in self.parameters() if parameter.requires_grad]
            loss = loss + 0.0 * torch.stack([value.to(loss.device) for value in trained]).sum()
        return {"loss": loss, **parts}


def _join(groups: list[Group], num_rows: int) -> Tensor:
    """Put the logits of all groups into one tensor, padded with -inf."""
    if len(groups) == 1:
        return groups[0][2]
    length = max(logits.shape[1] for _, _, logits in groups)
    vocabulary = max(logits.shape[2] for _, _, logits in groups)
    first = groups[0][2]
    joined = first.new_full((num_rows, length, vocabulary), float("-inf"))
    for _, rows, logits in groups:
        joined[rows, : logits.shape[1], : logits.shape[2]] = logits.to(first)
    return joined
