"""Identity, causality, equality with lock-step execution, gradients: the checks of a mixture's forward pass."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from lock_step import lock_step
from tiny_experts import TEXT, tiny_expert
from tiny_mixture import ALL, fill_levels, tiny_mixture

from hf_mixture.models.mixture_of_thoughts.interaction import num_level_parameters
from hf_mixture.models.mixture_of_thoughts.interplay import call
from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
from hf_mixture.models.mixture_of_thoughts.references import fingerprint
from hf_mixture.models.mixture_of_thoughts.stacks import stack_ends
from hf_mixture.models.mixture_of_thoughts.visibility import known_ends


PROMPTS = ["The mixture of", "A peer may know 🙂 the answer;", "Numbers", "Umlauts äöü, kanji 漢字 such"]


def bare_logits(model, batch, row, expert):
    inputs = {name: batch["expert_inputs"][expert][name][row : row + 1] for name in ("input_ids", "attention_mask")}
    return call(model.experts[expert], inputs).logits[0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("num_active", [1, 2, 3])
@torch.no_grad()
def test_a_new_mixture_is_bit_exactly_its_primary(side, num_active):
    model, processor = tiny_mixture(trained=False, num_active_experts=num_active)
    batch = processor(PROMPTS, padding_side=side)
    for shift in range(len(ALL)):
        primary = (torch.arange(4) + shift) % len(ALL)
        output = model(**batch, primary=primary)
        assert output.active.sum(-1).tolist() == [num_active] * 4
        for row, expert in enumerate(primary.tolist()):
            bare = bare_logits(model, batch, row, expert)
            assert torch.equal(output.logits[row, : bare.shape[0], : bare.shape[1]], bare)


def num_tokens_up_to(processor, expert, text, character):
    """Number of leading tokens whose characters all lie before a character, complete."""
    spans = processor.tokenizers[expert](text, return_offsets_mapping=True)["offset_mapping"]
    known = [end <= character for end in known_ends(spans)]
    return known.index(False) if False in known else len(known)


@pytest.mark.parametrize("prompt", [None, 12], ids=["prompt", "stream"])
@pytest.mark.parametrize("expert", range(len(ALL)))
@torch.no_grad()
def test_replacing_all_text_after_a_character_changes_nothing_before_it(expert, prompt):
    model, processor = tiny_mixture(peer_decode="prompt" if prompt is None else "stream")
    text, primary = TEXT[3] + " " + TEXT[0], torch.tensor([expert])
    encoder_inputs = processor(text[:12])["encoder_inputs"]
    largest, num_compared = 0.0, 0

    def logits_of(whole):
        parts = (whole,) if prompt is None else (whole[:prompt], whole[prompt:])
        batch = processor(*parts, padding_side="right")["expert_inputs"]
        return batch[expert]["input_ids"][0], model(batch, encoder_inputs, primary=primary).logits[0]

    ids, logits = logits_of(text)
    for character in range(prompt or 4, len(text), 5):
        other_text = text[:character] + "🙂x漢 qq zz" + text[character:][::-1]
        other_ids, other = logits_of(other_text)
        length = min(len(ids), len(other_ids))
        same = int((ids[:length] == other_ids[:length]).long().cumprod(0).sum())
        known = min(same, *(num_tokens_up_to(processor, expert, whole, character) for whole in (text, other_text)))
        torch.testing.assert_close(logits[:known], other[:known], atol=1e-5, rtol=0)
        largest = max(largest, (logits[known:length] - other[known:length]).abs().max().item())
        num_compared += known
    assert largest > 1e-2
    assert num_compared > 50


@torch.no_grad()
def test_a_mask_by_time_instead_of_characters_would_be_caught():
    model, processor = tiny_mixture(("llama", "gpt2"), num_active_experts=2)
    primary = torch.tensor([0])
    pair = [processor("The mixture of thoughts"), processor("The mixture of numbers!")]
    for batch in pair:
        # As if peers were stretched along time: every token of the primary sees every token of its peer.
        batch["expert_inputs"][0]["query_ends"].fill_(1000)
    first, second = (model(b["expert_inputs"], pair[0]["encoder_inputs"], primary=primary).logits[0] for b in pair)
    assert (first[0] - second[0]).abs().max() > 1e-3


@pytest.mark.parametrize("primary", [0, 1])
@pytest.mark.parametrize("after_last", [False, True])
@torch.no_grad()
def test_hooks_compute_what_stepping_all_experts_together_computes(primary, after_last):
    model, processor = tiny_mixture(
        ("llama", "qwen3", "llama"), dtype=torch.float64, num_active_experts=3, interaction_after_last=after_last
    )
    batch = processor(TEXT[3])
    output = model(**batch, primary=torch.tensor([primary]))
    peers = [expert for expert in range(3) if expert != primary]
    expected = lock_step(model, batch["expert_inputs"], primary=primary, peers=peers)
    torch.testing.assert_close(output.logits, expected, atol=1e-9, rtol=0)


@torch.no_grad()
def test_rows_of_a_batch_are_routed_on_their_own():
    model, processor = tiny_mixture()
    primary = torch.tensor([0, 3, 1, 2])
    together = model(**processor(PROMPTS), primary=primary)
    for row, prompt in enumerate(PROMPTS):
        alone = model(**processor(prompt), primary=primary[row : row + 1])
        assert torch.equal(alone.active[0], together.active[row])
        length, vocabulary = alone.logits.shape[1:]
        start = int((processor(PROMPTS)["expert_inputs"][int(primary[row])]["attention_mask"][row] == 0).sum())
        rows = together.logits[row][start : start + length]
        torch.testing.assert_close(rows[:, :vocabulary], alone.logits[0], atol=1e-4, rtol=1e-4)


def labelled(processor, rows=4):
    return processor(PROMPTS[:rows], [" models read", " the same", " text, word", " by word"][:rows])


@pytest.mark.parametrize("num_levels", [1, 3])
def test_the_router_reads_the_first_stack_of_the_first_expert_alone(num_levels):
    model, processor = tiny_mixture(("llama", "gpt2"), num_levels=num_levels)
    inputs = processor(["a", "A peer may know the answer"])["encoder_inputs"]
    layers = model.expert_0.model.layers
    first, ran, kept = stack_ends(len(layers), num_levels)[0], [], []
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number), prepend=True)
    layers[first - 1].register_forward_hook(lambda _, __, output: kept.append(output), prepend=True)
    with torch.no_grad():
        scores = model.route_scores(inputs)
        assert ran == list(range(first))
        states = model.expert_0.model.norm(kept[0]) if num_levels == 1 else kept[0]
        states = (states - states.mean(-1, keepdim=True)) / (
            states.var(-1, unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
        rows = [row[mask.bool()].mean(0) for row, mask in zip(states, inputs["attention_mask"], strict=True)]
        torch.testing.assert_close(scores, model.router(torch.stack(rows)))


def test_the_language_modelling_loss_alone_reaches_the_router():
    model, processor = tiny_mixture(
        num_active_experts=2, entropy_coefficient=0.0, balance_coefficient=0.0, selection_noise=0.0
    )
    model.train()
    model(**labelled(processor)).loss.backward()
    assert model.router.layers[-1].weight.grad.abs().sum() > 0
    fresh, _ = tiny_mixture(trained=False, num_active_experts=2, entropy_coefficient=0.0, balance_coefficient=0.0)
    fresh.train()
    fresh(**labelled(processor)).loss.backward()
    # With updates that are still zero nothing that a peer says can matter.
    assert fresh.router.layers[-1].weight.grad.abs().sum() == 0
    assert any(
        parameter.grad.abs().sum() > 0 for parameter in fresh.levels[0].up.parameters() if parameter.grad is not None
    )


def test_consistency_is_zero_without_noise_and_positive_with_it():
    model, processor = tiny_mixture(consistency_coefficient=1.0, router_dropout=0.0, num_active_experts=2)
    model.train()
    model.config.selection_noise = 0.0
    assert model(**labelled(processor)).consistency_loss == 0
    model.config.selection_noise = 5.0
    torch.manual_seed(0)
    losses = [model(**labelled(processor)).consistency_loss for _ in range(4)]
    assert max(losses) > 0
    max(losses).backward()
    assert model.router.layers[-1].weight.grad.abs().sum() > 0


def test_the_objective_is_the_sum_of_its_parts():
    model, processor = tiny_mixture(expert_nll_coefficient=0.5, entropy_coefficient=0.1, balance_coefficient=0.2)
    batch = labelled(processor)
    output = model(**batch, expert_nll=torch.rand(4, 5))
    parts = output.lm_loss + 0.1 * output.entropy_loss + 0.2 * output.balance_loss + 0.5 * output.expert_nll_loss
    torch.testing.assert_close(output.loss, parts)


def test_the_loss_is_the_cross_entropy_of_the_answers():
    model, processor = tiny_mixture()
    batch, primary = labelled(processor), torch.tensor([0, 1, 2, 3])
    output = model(**batch, primary=primary)
    total, count = 0.0, 0
    for row, expert in enumerate(primary.tolist()):
        labels = batch["expert_inputs"][expert]["labels"][row]
        logits = output.logits[row, : len(labels)].log_softmax(-1)
        for token in range(1, len(labels)):
            if labels[token] != -100:
                total, count = total - logits[token - 1, labels[token]].item(), count + 1
    assert output.lm_loss.item() == pytest.approx(total / count, rel=1e-5)


def test_gradients_are_the_same_with_activation_checkpointing_and_dropout_stays_off():
    model, processor = tiny_mixture(selection_noise=0.0, router_dropout=0.0)
    batch, primary = labelled(processor), torch.tensor([0, 1, 2, 3])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        model.zero_grad()
        model(**batch, primary=primary).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert model.expert_0.model.layers[0].training
    assert not any(
        module.training
        for module in model.expert_1.transformer.h[0].modules()
        if module is not model.expert_1.transformer.h[0]
    )


def test_only_the_router_and_the_levels_are_trained():
    model, _ = tiny_mixture()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"levels", "router"}
    widths = [expert.config.get_text_config().hidden_size for expert in model.experts]
    assert sum(p.numel() for p in model.levels.parameters()) == 2 * num_level_parameters(widths, 16)


def test_an_expert_used_on_its_own_is_untouched_and_other_threads_too():
    model, processor = tiny_mixture()
    before = fingerprint(model.expert_0)
    batch = processor(PROMPTS)
    bare = call(tiny_expert("llama", 0), batch["expert_inputs"][0]).logits
    seen = []

    def other_thread():
        seen.append(call(model.expert_0, batch["expert_inputs"][0]).logits)

    thread = threading.Thread(target=other_thread)
    with torch.no_grad():
        thread.start()
        model(**batch, primary=torch.zeros(4, dtype=torch.long))
        thread.join()
        seen.append(call(model.expert_0, batch["expert_inputs"][0]).logits)
    assert all(torch.equal(logits, bare) for logits in seen)
    assert fingerprint(model.expert_0) == before


def test_a_copy_of_a_mixture_computes_the_same_and_is_independent():
    model, processor = tiny_mixture(("llama", "gpt2"))
    other = copy.deepcopy(model)
    batch, primary = processor(PROMPTS), torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        expected = model(**batch, primary=primary).logits
        assert torch.equal(other(**batch, primary=primary).logits, expected)
        fill_levels(other)
        assert not torch.equal(other(**batch, primary=primary).logits, expected)
        assert torch.equal(model(**batch, primary=primary).logits, expected)


def test_mistakes_are_named():
    experts = [tiny_expert("llama"), tiny_expert("gpt2")]
    make = MixtureOfThoughtsForCausalLM.from_experts
    with pytest.raises(ValueError, match=r"num_levels=4 must be from 1 to 3, .* shallowest"):
        make(experts, num_levels=4)
    with pytest.raises(ValueError, match="experts is empty"):
        make([])
    with pytest.raises(ValueError, match="latent_size=10 must be a multiple of num_heads=4"):
        make(experts, num_levels=2, latent_size=10, num_heads=4)
    with pytest.raises(ValueError, match="expert_kwargs has 1 entries for 2 experts"):
        make(experts, expert_kwargs=[{}])
    model, processor = tiny_mixture(("llama", "gpt2"))
    other, _ = tiny_mixture(("llama", "gpt2", "bloom"))
    with pytest.raises(ValueError, match="expert_inputs has 2 entries and the mixture 3 experts"):
        other(**processor("The"))
    model.config.expert_nll_coefficient = 1.0
    with pytest.raises(ValueError, match="needs expert_nll in the batch"):
        model(**labelled(processor))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_mixture_in_half_precision_has_gradients(dtype):
    model, processor = tiny_mixture(("llama", "gpt2"), num_active_experts=2, dtype=dtype)
    loss = model(**processor(["The mixture of"], [" thoughts"]), primary=torch.tensor([0])).loss
    loss.backward()
    assert model.router.layers[-1].weight.grad.isfinite().all()
    assert model.interactions[0].value.weight.grad.abs().max() > 0
