"""Greedy responses of a model to prompts, in batches.

Letters: B prompts of a batch, S positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor


Prompt: TypeAlias = str | Sequence[Mapping[str, str]]


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Refuse what is no prompt.

    Args:
        prompts: Texts, or chats: lists of `{"role": ..., "content": ...}`.

    Raises:
        ValueError: If there is none, or an empty one.
        TypeError: If one is neither text nor chat.
    """
    if len(prompts) == 0:
        raise ValueError("prompts is empty; give at least one")
    for number, prompt in enumerate(prompts):
        is_chat = isinstance(prompt, list | tuple) and all(isinstance(turn, Mapping) for turn in prompt)
        if not (isinstance(prompt, str) or is_chat):
            raise TypeError(f"prompts[{number}] is {prompt!r}; it must be a text, or a list of chat messages")
        if not prompt:
            raise ValueError(f"prompts[{number}] is empty; remove it")


def encode(tokenizer: Any, prompts: Sequence[Prompt], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Encode prompts, padded on the left, so that what is generated follows each of them.

    Args:
        tokenizer: The tokenizer; chats go through its template.
        prompts: The prompts of a batch.
        device: Where to. Default: the CPU.

    Returns:
        `input_ids` and `attention_mask` [B, S].
    """
    chats = [not isinstance(prompt, str) for prompt in prompts]
    texts = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False) if is_chat else prompt
        for prompt, is_chat in zip(prompts, chats, strict=True)
    ]
    # A template writes the special tokens itself.
    rows = [
        tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
        for text, is_chat in zip(texts, chats, strict=True)
    ]
    width, fill = max(map(len, rows)), _pad_token_id(tokenizer)
    ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@torch.no_grad()
def respond(model: Any, tokenizer: Any, prompts: Sequence[Prompt], *, max_new_tokens: int) -> list[str]:
    """Generate a greedy response to each prompt of a batch.

    Args:
        model: A causal language model, in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: The prompts.
        max_new_tokens: Longest response, in tokens; 0 runs the prompts alone.

    Returns:
        The responses, without special tokens.
    """
    batch = encode(tokenizer, prompts, model.device)
    if max_new_tokens == 0:
        model(**batch, use_cache=False)
        return [""] * len(prompts)
    said = model.generate(
        **batch,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        # Whatever the generation configuration says, also of caches, whose kind may hide which positions are padding.
        num_return_sequences=1,
        cache_implementation="dynamic",
        return_dict_in_generate=False,
        # Settings for sampling in the generation configuration would only be warned about.
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=_pad_token_id(tokenizer),
    )
    new = said[:, batch["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def text_of(prompt: Prompt) -> str:
    """Return a prompt as one text: a chat as its contents, line by line."""
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def _pad_token_id(tokenizer: Any) -> int:
    """Padding is masked, so that any token serves."""
    found = [tokenizer.pad_token_id, tokenizer.eos_token_id, 0]
    return int(next(token for token in found if token is not None))
