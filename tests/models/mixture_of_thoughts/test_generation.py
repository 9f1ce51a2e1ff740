"""Generation: with a cache as without, in a batch as alone, with beams, under both policies for the peers."""

from __future__ import annotations

import pytest
import torch
from tiny_mixture import ALL, tiny_mixture
from transformers import DynamicCache, GenerationConfig
from written_again import next_token

from hf_mixture.models.mixture_of_thoughts.cache import MotCache
from hf_mixture.models.mixture_of_thoughts.peers import PeerLatents


PROMPTS = ["The mixture of thou", "A peer may know 🙂 the", "Numbers", "Umlauts äöü, kanji 漢字 such as 12"]
LENGTH = 32


def answer_of(processor, generated, row, prompt):
    expert = int(generated.primary[row])
    ids = [token for token in generated.sequences[row].tolist() if token >= 0]
    return expert, ids[processor(prompt)["expert_inputs"][expert]["input_ids"].shape[1] :]


@pytest.mark.parametrize("policy", ["prompt", "stream"])
def test_greedy_decoding_is_the_argmax_of_recomputation_for_every_row(policy):
    model, processor = tiny_mixture(peer_decode=policy)
    primary = torch.tensor([0, 1, 3, 0])
    options = {"processor": processor, "max_new_tokens": LENGTH, "do_sample": False}
    generated = model.generate(**processor(PROMPTS), primary=primary, **options)
    heard = False
    for row, prompt in enumerate(PROMPTS):
        alone = model.generate(**processor(prompt), primary=primary[row : row + 1], **options)
        expert, written = answer_of(processor, generated, row, prompt)
        assert answer_of(processor, alone, 0, prompt) == (expert, written)
        assert len(written) == LENGTH
        for count in range(0, LENGTH, 3):
            with torch.no_grad():
                logits = next_token(model, processor, prompt, expert, written[:count])
            assert int(logits.argmax()) == written[count]
        bare = model.experts[expert].generate(
            input_ids=processor(prompt)["expert_inputs"][expert]["input_ids"], max_new_tokens=LENGTH, do_sample=False
        )
        heard = heard or bare[0].tolist()[-LENGTH:] != written
    assert heard


def test_peers_read_along_only_when_they_stream():
    logits = {}
    for policy in ("prompt", "stream"):
        model, processor = tiny_mixture(("llama", "bloom"), peer_decode=policy, num_active_experts=2)
        # A model of random weights seldom ends a word; the answer is therefore given token by token.
        answer = processor.tokenizers[0](" of words that end", add_special_tokens=False)["input_ids"]
        start = processor(PROMPTS[:1])["expert_inputs"][0]["input_ids"].shape[1]
        generated = model.generate(
            **processor(PROMPTS[:1]),
            primary=torch.zeros(1, dtype=torch.long),
            processor=processor,
            max_new_tokens=len(answer),
            prefix_allowed_tokens_fn=lambda _, ids, answer=answer, start=start: [answer[len(ids) - start]],
            return_dict_in_generate=True,
            output_logits=True,
        )
        assert generated.sequences[0].tolist()[start:] == answer
        logits[policy] = torch.cat(generated.outputs[0].logits)
    torch.testing.assert_close(logits["prompt"][0], logits["stream"][0])
    assert (logits["prompt"][-1] - logits["stream"][-1]).abs().max() > 1e-3


def test_beams_with_a_cache_are_those_of_recomputation():
    model, processor = tiny_mixture()
    primary = torch.tensor([0, 1, 2, 1])
    options = {"primary": primary, "max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    cached = model.generate(**processor(PROMPTS), **options)
    recomputed = model.generate(**processor(PROMPTS), **options, use_cache=False)
    assert torch.equal(cached.sequences, recomputed.sequences)
    assert cached.sequences.shape[0] == 8
    assert cached.primary.tolist() == [0, 0, 1, 1, 2, 2, 1, 1]


def test_beams_of_streaming_peers_keep_to_their_rows():
    model, processor = tiny_mixture(("llama", "gpt2", "bloom"), peer_decode="stream")
    options = {"processor": processor, "max_new_tokens": 12, "num_beams": 3, "do_sample": False}
    primary = torch.tensor([0, 1, 2, 0])
    together = model.generate(**processor(PROMPTS), primary=primary, **options)
    for row, prompt in enumerate(PROMPTS):
        alone = model.generate(**processor(prompt), primary=primary[row : row + 1], **options)
        assert answer_of(processor, alone, 0, prompt) == answer_of(processor, together, row, prompt)
        _, written = answer_of(processor, together, row, prompt)
        scores = [next_token(model, processor, prompt, int(primary[row]), written[:n]) for n in range(0, 12, 4)]
        assert all(torch.isfinite(logits).all() for logits in scores)


def test_the_router_decides_when_nobody_is_named():
    model, processor = tiny_mixture()
    for bias in range(len(ALL)):
        with torch.no_grad():
            model.router.layers[-1].bias.zero_()[bias] = 100.0
        generated = model.generate(**processor(PROMPTS), max_new_tokens=2)
        assert generated.primary.tolist() == [bias] * 4
        assert processor.batch_decode(generated)[2].lower().startswith(("numbers", "<s> numbers"))


def test_sampling_follows_the_seed_and_several_samples_of_a_row():
    model, processor = tiny_mixture()
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        generated = model.generate(**processor(PROMPTS[:2]), do_sample=True, num_return_sequences=3, max_new_tokens=8)
        drawn.append(generated.sequences)
    assert torch.equal(*drawn)
    assert drawn[0].shape[0] == 6
    assert not torch.equal(drawn[0][0], drawn[0][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"assistant_model": object()}, "assisted decoding"),
        ({"prompt_lookup_num_tokens": 3}, "prompt look-up"),
        ({"cache_implementation": "static"}, "a cache of a given implementation"),
        ({"past_key_values": DynamicCache()}, "a cache of an earlier call"),
        ({"cache": DynamicCache()}, "a cache of an earlier call"),
        ({"streamer": object()}, "a streamer"),
    ],
)
def test_ways_to_generate_that_would_lose_the_interaction_are_refused(options, message):
    model, processor = tiny_mixture(("llama", "gpt2"))
    with pytest.raises(ValueError, match=message):
        model.generate(**processor("The"), **options)


def test_streaming_needs_texts_and_a_cache():
    model, processor = tiny_mixture(("llama", "gpt2"), peer_decode="stream")
    with pytest.raises(ValueError, match="needs processor="):
        model.generate(**processor("The"), max_new_tokens=1)
    with pytest.raises(ValueError, match="use_cache=False does not go with"):
        model.generate(**processor("The"), processor=processor, use_cache=False)


def test_continuous_batching_is_refused():
    model, _ = tiny_mixture(("llama", "gpt2"))
    with pytest.raises(NotImplementedError, match="continuous batching"):
        model.generate_batch([[1, 2]])


def peers(rows: int) -> PeerLatents:
    keys = [torch.arange(rows * 2 * 3 * 4.0).reshape(rows, 2, 3, 4)]
    return PeerLatents(keys, [keys[0] + 100], torch.ones(rows, 5, 3).bool(), torch.ones(rows, 3).bool())


def filled_cache(rows: int = 2) -> MotCache:
    model, _ = tiny_mixture(("llama",))
    cache = MotCache(model.expert_0.config, 1, peers(rows))
    for layer in range(5):
        states = torch.randn(rows, 4, 6, 8)
        cache.update(states, states, layer)
    cache.update_latents(*[torch.arange(rows * 2 * 6 * 4.0).reshape(rows, 2, 6, 4)] * 2, 0)
    return cache


def test_the_latents_follow_the_beams_and_cropping():
    cache = filled_cache()
    latents, said = cache.layers[-1].keys.clone(), cache.peers.keys[0].clone()
    cache.reorder_cache(torch.tensor([1, 1]))
    assert torch.equal(cache.layers[-1].keys, latents[[1, 1]])
    assert torch.equal(cache.peers.keys[0], said[[1, 1]])
    cache.batch_repeat_interleave(2)
    assert cache.layers[-1].keys.shape[0] == cache.peers.keys[0].shape[0] == 4
    cache.batch_select_indices(torch.tensor([0]))
    assert torch.equal(cache.peers.values[0], said[[1]] + 100)
    cache.crop(-2)
    assert cache.get_seq_length() == 4
    assert torch.equal(cache.layers[-1].keys, latents[[1], :, :4])
    assert cache.peers.keys[0].shape[-2] == 3
    assert not cache.is_compileable


@pytest.mark.parametrize(
    "own", [{"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 1, "num_return_sequences": 1}]
)
def test_what_the_configuration_of_an_expert_asks_for_does_not_break_the_mixture(own):
    model, processor = tiny_mixture(("llama", "gpt2"), num_active_experts=2)
    options = {**processor(PROMPTS[:2]), "primary": torch.tensor([0, 1]), "max_new_tokens": 4, "do_sample": False}
    expected = model.generate(**options).sequences
    for name, value in own.items():
        setattr(model.experts[0].generation_config, name, value)
    assert torch.equal(model.generate(**options).sequences, expected)


def test_experts_whose_configurations_ask_for_several_answers_give_as_many_as_the_call():
    model, processor = tiny_mixture(("llama", "gpt2"), num_active_experts=2)
    options = {**processor(PROMPTS[:2]), "primary": torch.tensor([0, 1]), "max_new_tokens": 4}
    own = model.experts[0].generation_config
    own.num_beams, own.num_return_sequences = 3, 3
    assert len(model.generate(**options).sequences) == 2
    assert len(model.generate(**options, num_beams=2, num_return_sequences=2).sequences) == 4


def test_a_generation_config_says_as_much_as_arguments():
    model, processor = tiny_mixture(("llama", "gpt2"), num_active_experts=2)
    inputs = {**processor(PROMPTS[:2]), "primary": torch.tensor([0, 1])}
    expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    fields = {"max_new_tokens": 4, "do_sample": False}
    config = GenerationConfig(**fields, use_cache=False, return_dict_in_generate=True)
    found = model.generate(**inputs, generation_config=config)
    assert torch.equal(found.sequences, expected.sequences)
    assert len(found.outputs) == 2
    for name, value in {
        "prompt_lookup_num_tokens": 2,
        "guidance_scale": 1.5,
        "cache_implementation": "static",
    }.items():
        with pytest.raises(ValueError, match=f"{name}=.* does not work with a mixture of thoughts"):
            model.generate(**inputs, generation_config=GenerationConfig(**fields, **{name: value}))


@pytest.mark.parametrize("policy", ["prompt", "stream"])
def test_an_empty_prompt_that_gives_a_peer_no_token_is_answered(policy):
    model, processor = tiny_mixture(("llama", "gpt2"), num_active_experts=2, peer_decode=policy)
    assert processor("")["expert_inputs"][1]["attention_mask"].sum() == 0
    options = {"max_new_tokens": 4, "do_sample": False, "processor": processor}
    alone = model.generate(**processor(""), primary=torch.tensor([0]), **options).sequences
    both = model.generate(**processor(["", "Numbers"]), primary=torch.tensor([0, 0]), **options).sequences
    assert both[0][both[0] >= 0].tolist() == alone[0].tolist()


@pytest.mark.parametrize("primary", [[0], [0, 2], [0, -1]])
def test_a_primary_must_be_named_for_each_row(primary):
    model, processor = tiny_mixture(("llama", "gpt2"), num_active_experts=2)
    with pytest.raises(ValueError, match="must name an expert from 0 to 1 for each of the 2 rows"):
        model.generate(**processor(PROMPTS[:2]), primary=torch.tensor(primary), max_new_tokens=1)
