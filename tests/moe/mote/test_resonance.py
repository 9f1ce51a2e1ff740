"""Counting the experts of prompts, against one prompt at a time without padding, cache or batch.

B prompts, K chosen experts of each token, E experts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe
from mote_runs import observe_run
from two_processes import run_on_two

from hf_mixture._compat.caches import CACHE_NAME, returned_cache
from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts
from hf_mixture.moe.mote.resonance import STATISTICS, FtriCollector
from hf_mixture.moe.mote.token_slices import TokenBatch


LENGTHS = (3, 7, 5, 7)
FAMILIES = ("qwen3_moe", "deepseek_v3", "gpt_oss", "gemma4_text", "longcat_flash", "jetmoe", "dbrx", "llama4_text")


def prompts(vocab_size: int, lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, vocab_size, (length,), generator=generator) for length in lengths]


def padded(rows: list[torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        span = slice(width - len(row), None) if side == "left" else slice(len(row))
        ids[place, span], mask[place, span] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def counted_alone(model: Any, row: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Counts and summed weights of one prompt, added up token by token."""
    _, seen = observe_run(model, {"input_ids": row[None]})
    counts, gates = [], []
    for router in find_routers(model):
        count, gate = np.zeros(router.num_experts, dtype=np.int64), np.zeros(router.num_experts)
        for experts, weights in zip(
            seen[router.path].indices.tolist(), seen[router.path].weights.tolist(), strict=True
        ):
            for expert, weight in zip(experts, weights, strict=True):
                if expert < router.num_experts:
                    count[expert] += 1
                    gate[expert] += weight
        counts.append(count)
        gates.append(gate)
    return np.concatenate(counts), np.concatenate(gates)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_batches_count_as_prompts_alone(family: str) -> None:
    model = build_tiny_moe(family).model
    rows = prompts(model.config.vocab_size)
    alone = [counted_alone(model, row) for row in rows]
    for side in ("left", "right"):
        with FtriCollector(model, statistic="gate") as collector, torch.no_grad():
            model(**padded(rows, side))
        maps = collector.maps()
        assert maps.tokens.tolist() == list(LENGTHS)
        assert np.array_equal(maps.counts, np.stack([counts for counts, _ in alone])), side
        np.testing.assert_allclose(maps.values, np.stack([gates for _, gates in alone]), atol=1e-5)
        if family != "longcat_flash":  # Its identity experts take the rest.
            per_router = np.stack([part.sum(axis=1) for part in maps.facts.split(maps.counts)])
            expected = [[router.top_k * length for length in LENGTHS] for router in maps.facts.routers]
            assert per_router.tolist() == expected
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_sums_of_other_statistics(family: str) -> None:
    model = build_tiny_moe(family).model
    row = prompts(model.config.vocab_size)[1]
    found: dict[str, Any] = {}
    for statistic in STATISTICS:
        with FtriCollector(model, statistic=statistic) as collector, torch.no_grad():
            model(row[None])
        found[statistic] = collector.maps()
    assert found["count"].values is None
    states: dict[str, torch.Tensor] = {}
    handles = [
        router.experts.register_forward_pre_hook(lambda _, args, path=router.path: states.update({path: args[0]}))
        for router in find_routers(model)
    ]
    _, seen = observe_run(model, {"input_ids": row[None]})
    for handle in handles:
        handle.remove()
    facts = found["prob"].facts
    for place, router in enumerate(find_routers(model)):
        output = seen[router.path]
        scores = output.logits.sigmoid() if family == "deepseek_v3" else output.logits.softmax(-1)
        np.testing.assert_allclose(facts.split(found["prob"].values[0])[place], scores.sum(0), atol=1e-5)
        norms = np.zeros(router.num_experts)
        for state, experts, weights in zip(states[router.path], output.indices, output.weights, strict=True):
            for expert, weight in zip(experts, weights, strict=True):
                one = router.experts(state[None], expert[None, None], torch.ones(1, 1))
                norms[expert] += float(weight) * float(one.detach().norm())
        np.testing.assert_allclose(facts.split(found["norm"].values[0])[place], norms, rtol=1e-5)


def test_prefill_and_decode_are_apart() -> None:
    model = build_tiny_moe("qwen3_moe").model
    rows = prompts(model.config.vocab_size)
    batch = padded(rows, "left")
    # Whatever the second step of the first row says ends a text, so that rows end at different lengths.
    free = model.generate(**batch, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    new = free[:, batch["input_ids"].shape[1] :]
    end = int(new[0, 1])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": end}
    for tokens in ("prompt", "response", "all"):
        with FtriCollector(model, tokens=tokens, eos_token_id=end) as collector:
            said = model.generate(**batch, **options)
        maps = collector.maps()
        for place, row in enumerate(rows):
            answer = said[place, batch["input_ids"].shape[1] :].tolist()
            answer = answer[: answer.index(end)] if end in answer else answer[:-1]
            whole, _ = counted_alone(model, torch.cat([row, torch.tensor(answer, dtype=torch.long)]))
            prompt, _ = counted_alone(model, row)
            expected = {"prompt": prompt, "response": whole - prompt, "all": whole}[tokens]
            assert np.array_equal(maps.counts[place], expected), (tokens, place)
            assert (
                maps.tokens[place]
                == {"prompt": len(row), "response": len(answer), "all": len(row) + len(answer)}[tokens]
            )


def test_slices_of_the_prompt() -> None:
    model = build_tiny_moe("qwen3_moe").model
    rows = prompts(model.config.vocab_size)
    batch = padded(rows, "right")
    _, seen = observe_run(model, batch)
    [first, *_] = find_routers(model)
    chosen = seen[first.path].indices.unflatten(0, batch["input_ids"].shape)

    def even_ids(batch: TokenBatch) -> torch.Tensor:
        assert batch.input_ids is not None
        assert (batch.is_decode, batch.num_past) == (False, 0)
        return batch.input_ids % 2 == 0

    for tokens, name in ((2, "last 2 of the prompt"), (100, "last 100 of the prompt"), (even_ids, "even_ids")):
        with FtriCollector(model, tokens=tokens) as collector, torch.no_grad():
            model(**batch)
        maps = collector.maps()
        assert maps.positions == name
        for place, row in enumerate(rows):
            keep = [
                at for at in range(len(row)) if (row[at] % 2 == 0 if callable(tokens) else at >= len(row) - tokens)
            ]
            expected = torch.bincount(chosen[place, keep].flatten(), minlength=first.num_experts)
            assert maps.facts.split(maps.counts[place])[0].tolist() == expected.tolist()
            assert maps.tokens[place] == len(keep)


def test_edits_and_adapters_are_seen() -> None:
    from peft import LoraConfig, get_peft_model

    model = build_tiny_moe("deepseek_v3").model
    rows = prompts(model.config.vocab_size)
    with FtriCollector(model) as collector, torch.no_grad():
        model(**padded(rows, "left"))
    before = collector.maps()
    paths = [router.path for router in before.facts.routers]
    busiest = [int(part.sum(axis=0).argmax()) for part in before.facts.split(before.counts)]
    edits = ExpertEdits([ExpertEdit(path, expert, "off") for path, expert in zip(paths, busiest, strict=True)])
    adapted = get_peft_model(model, LoraConfig(target_modules=["o_proj"]))
    with tune_experts(adapted, edits), FtriCollector(adapted) as collector:
        adapted.generate(**padded(rows, "left"), max_new_tokens=3, pad_token_id=0)
    after = collector.maps()
    assert [router.path for router in after.facts.routers] == paths
    assert after.facts.fingerprint == before.facts.fingerprint
    for part, expert in zip(after.facts.split(after.counts), busiest, strict=True):
        assert part[:, expert].sum() == 0
    assert after.counts.sum() == before.counts.sum()


def test_two_processes_gather_all_prompts(tmp_path: Path) -> None:
    run_on_two(Path(__file__).with_name("resonance_worker.py"), tmp_path)
    gathered = np.load(tmp_path / "maps.npz")
    model = build_tiny_moe("qwen3_moe").model
    with FtriCollector(model, statistic="gate") as collector, torch.no_grad():
        for row in prompts(model.config.vocab_size):
            model(row[None])
    maps = collector.maps()
    assert np.array_equal(gathered["counts"], maps.counts)
    assert np.array_equal(gathered["tokens"], maps.tokens)
    np.testing.assert_allclose(gathered["values"], maps.values, atol=1e-6)


def test_what_cannot_be_counted_is_refused() -> None:
    model = build_tiny_moe("qwen3_moe").model
    batch = padded(prompts(model.config.vocab_size), "left")
    for arguments, message in (
        ({"statistic": "sum"}, "statistic='sum' must be one of count, gate, prob, norm"),
        ({"tokens": "answer"}, "tokens='answer' must be 'prompt', 'response', 'all', a number"),
        ({"tokens": 0}, "tokens=0 must be"),
        ({"tokens": True}, "tokens=True must be"),
    ):
        with pytest.raises(ValueError, match=message):
            FtriCollector(model, **arguments)
    with pytest.raises(ValueError, match="no prompt was run"):
        FtriCollector(model).maps()
    wrong = r"returned torch.int64 \[4, 7\]; it must return torch.bool"
    with FtriCollector(model, tokens=lambda batch: batch.valid.long()), pytest.raises(ValueError, match=wrong):
        model(**batch)
    cache = returned_cache(model(**batch))
    with FtriCollector(model), pytest.raises(ValueError, match="its prompt was not run inside this collector"):
        model(batch["input_ids"][:, :1], **{CACHE_NAME: cache})
    with FtriCollector(model):
        cache = returned_cache(model(**batch))
        with pytest.raises(ValueError, match="without prefill_chunk_size and without an assistant"):
            model(batch["input_ids"][:, :2], **{CACHE_NAME: cache})
    with FtriCollector(model), pytest.raises(ValueError, match="does not say which tokens are padding"):
        model(batch["input_ids"], attention_mask=torch.ones(4, 1, 7, 7, dtype=torch.bool))
    with pytest.raises(UnsupportedRouterError, match="an encoder with a decoder"):
        FtriCollector(build_tiny_moe("switch_transformers").model)
    with pytest.raises(UnsupportedRouterError, match="do not run through the experts interface"):
        FtriCollector(build_tiny_moe("dbrx").model, statistic="norm")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [name for name in MOE_FAMILIES if name not in ("doge", "switch_transformers", "nllb-moe")]
)
def test_every_family_is_counted(family: str) -> None:
    tiny = build_tiny_moe(family)
    _, seen = observe_run(tiny.model, tiny.inputs)
    torch.manual_seed(0)
    with FtriCollector(tiny.model, tokens="all") as collector, torch.no_grad():
        tiny.model(**tiny.inputs)
    maps = collector.maps()
    mask = tiny.inputs.get("attention_mask")
    for router, part in zip(collector.routers, maps.facts.split(maps.counts), strict=True):
        if router.path in seen:
            indices = seen[router.path].indices
            kept = indices if mask is None else indices[mask.flatten() != 0]
            counts = torch.bincount(kept.flatten().clamp(max=router.num_experts), minlength=router.num_experts + 1)
            assert part.sum(axis=0).tolist() == counts[:-1].tolist()
        else:
            assert part.sum() == 0
