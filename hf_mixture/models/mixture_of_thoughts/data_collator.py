"""Batches for training a mixture: every text in the tokens of every expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from tqdm import tqdm

from hf_mixture.models.mixture_of_thoughts.interplay import call
from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


@dataclass
class MixtureOfThoughtsCollator:
    """Data collator of a mixture: prompts and answers become the inputs of all experts.

    The Trainer drops columns that the forward does not name: set `remove_unused_columns=False`.

    Args:
        processor: The tokenizers.
        prompt_column: Column with what the router and the peers read.
        answer_column: Column with what the primary learns to say.
        nll_column: Column with the loss of each expert, from `score_experts`, for `expert_nll_coefficient`.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> from hf_mixture import MixtureOfThoughtsCollator, MixtureOfThoughtsProcessor
        >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "mixture": 2}, unk_token="[UNK]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[UNK]")
        >>> collate = MixtureOfThoughtsCollator(MixtureOfThoughtsProcessor([tokenizer]))
        >>> collate([{"prompt": "one", "answer": " mixture"}])["expert_inputs"][0]["labels"].tolist()
        [[-100, 2]]
    """

    processor: MixtureOfThoughtsProcessor
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    nll_column: str = "expert_nll"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            rows: Rows of a data set.

        Returns:
            Arguments of the forward of the mixture.

        Raises:
            ValueError: If a column is missing.
        """
        for name in (self.prompt_column, self.answer_column):
            if name not in rows[0]:
                raise ValueError(
                    f"column {name!r} is not in the batch, which has {', '.join(map(repr, rows[0])) or 'none'}; name "
                    "it in the collator, and set remove_unused_columns=False in the TrainingArguments"
                )
        texts = [[row[name] for row in rows] for name in (self.prompt_column, self.answer_column)]
        batch = dict(self.processor(*texts, padding_side="right"))
        if self.nll_column in rows[0]:
            batch["expert_nll"] = torch.tensor([row[self.nll_column] for row in rows], dtype=torch.float32)
        return batch


@torch.no_grad()
def score_experts(
    model: MixtureOfThoughtsForCausalLM,
    processor: MixtureOfThoughtsProcessor,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    batch_size: int = 8,
) -> npt.NDArray[np.float64]:
    """Let each expert, on its own, predict the answers: the targets of a supervised router.

    Bits per byte, unlike losses per token, compare across tokenizers.

    Args:
        model: The mixture whose experts are asked.
        processor: Its tokenizers.
        prompts: Prompts.
        answers: One answer for each prompt, not empty.
        batch_size: Rows at once.

    Returns:
        Bits per byte of each answer under each expert [rows, M].

    Raises:
        ValueError: If `max_length` of the processor would cut an answer, each expert at another place.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast
        >>> from hf_mixture import MixtureOfThoughtsForCausalLM, MixtureOfThoughtsProcessor, score_experts
        >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "mixture": 2}, unk_token="[UNK]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[UNK]")
        >>> experts = [AutoModelForCausalLM.from_config(GPT2Config(vocab_size=3, n_embd=8, n_layer=2, n_head=2))] * 2
        >>> model = MixtureOfThoughtsForCausalLM.from_experts(experts, num_levels=2, latent_size=8, num_heads=2)
        >>> score_experts(model, MixtureOfThoughtsProcessor([tokenizer] * 2), ["one"], [" mixture"]).shape
        (1, 2)
    """
    scores = np.zeros((len(prompts), model.num_experts))
    limit = processor.max_length
    whole = MixtureOfThoughtsProcessor(processor.tokenizers)
    for start in tqdm(range(0, len(prompts), batch_size), desc="score experts", disable=len(prompts) <= batch_size):
        part = slice(start, start + batch_size)
        batch = whole(list(prompts[part]), list(answers[part]))
        num_bytes = np.array([len(answer.encode()) for answer in answers[part]])
        for index, inputs in enumerate(batch["expert_inputs"]):
            lengths = inputs["attention_mask"].sum(-1)
            if limit is not None and int(lengths.max()) > limit:
                raise ValueError(
                    f"row {start + int(lengths.argmax())} has {int(lengths.max())} tokens for expert {index}, and the "
                    f"processor's max_length={limit} would cut its answer; raise it, or shorten the row"
                )
            logits = call(model.experts[index], inputs).logits[:, :-1].float()
            labels = inputs["labels"][:, 1:].to(logits.device)
            nats = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(-1)
            scores[part, index] = nats.double().cpu().numpy() / np.log(2) / num_bytes
    return scores
