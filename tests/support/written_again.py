"""A generation checked token by token: what would a full forward pass without any cache have written next?"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_mixture.models.mixture_of_thoughts.encoding import Rendered, encode
from hf_mixture.models.mixture_of_thoughts.visibility import NEVER, committed_ends


def next_token(model, processor, prompt: str, expert: int, written: list[int]) -> Tensor:
    """Logits after a prompt and what has been written, recomputed from nothing [V]."""
    batch = processor(prompt)
    tokenizer = processor.tokenizers[expert]
    own = batch["expert_inputs"][expert]
    given = own["input_ids"][0].tolist()
    start = len(prompt)
    committed = []
    answer = ""
    for count in range(1, len(written) + 1):
        whole = decode(tokenizer, given + written[:count])
        answer = whole[len(decode(tokenizer, given)) :].rstrip("\ufffd")
        committed.append(committed_ends("x" * start + answer, start)[-1])
    heard = committed if model.config.peer_decode == "stream" else [start] * len(written)
    ids = torch.tensor([given + written])
    primary = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "query_ends": torch.cat([own["query_ends"], torch.tensor([heard], dtype=torch.long)], dim=-1),
        "key_ends": torch.cat([own["key_ends"], torch.full((1, len(written)), NEVER)], dim=-1),
    }
    inputs = []
    for other, one in enumerate(batch["expert_inputs"]):
        if other == expert:
            inputs.append(primary)
        elif model.config.peer_decode == "prompt" or not written:
            inputs.append(one)
        else:
            inputs.append(peer_inputs(processor.tokenizers[other], prompt, answer[: committed[-1] - start]))
    output = model(inputs, batch["encoder_inputs"], primary=torch.tensor([expert]))
    return output.logits[0, -1]


def peer_inputs(tokenizer, prompt: str, answer: str) -> dict[str, Tensor]:
    encoded = encode(tokenizer, Rendered.plain(prompt), answer)
    ids = torch.tensor([encoded.ids])
    ends = torch.tensor([[end for _, end in encoded.spans]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "query_ends": ends, "key_ends": ends}


def decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
