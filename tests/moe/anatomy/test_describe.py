"""The table of routers, on the command line too."""

from __future__ import annotations

import json

from moe_families import build_tiny_moe
from transformers import DeepseekV3Config, LlamaConfig

from hf_mixture.cli.main import main
from hf_mixture.moe.anatomy.describe import describe_moe, empty_model, ranges


TINY = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 8}


def save_config(folder):
    config = DeepseekV3Config(
        **TINY, n_routed_experts=8, num_experts_per_tok=2, n_group=4, topk_group=2, first_k_dense_replace=1
    )
    config.architectures = ["DeepseekV3ForCausalLM"]
    config.save_pretrained(folder)


def test_alike_layers_share_their_lines(tmp_path):
    save_config(tmp_path)
    text = str(describe_moe(empty_model(tmp_path)))
    assert "deepseek_v3: 4 routers, 32 routed experts" in text
    assert "layers 1-4: 2 of 8 experts, DeepseekV3TopkRouter" in text
    assert "sigmoid, bias on scores, best 2 of 4 groups, renormalised, times 2.5" in text
    assert "bias    model.layers.{1-4}.mlp.gate.e_score_correction_bias" in text


def test_inspect_prints_one_json_entry_for_each_router(tmp_path, capsys):
    save_config(tmp_path)
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in table["routers"]] == [1, 2, 3, 4]
    assert table["routers"][0]["experts"] == "DeepseekV3NaiveMoe" or table["routers"][0]["num_expert_parameters"] > 0


def test_inspect_refuses_a_dense_model_in_one_line(tmp_path, capsys):
    config = LlamaConfig(**TINY)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: LlamaForCausalLM has no router")


def test_runs_of_numbers_are_joined():
    assert ranges([0, 3, 4, 5, 9]) == "0, 3-5, 9"


def test_experts_that_two_routers_share_are_said_to_be_and_count_once():
    table = describe_moe(build_tiny_moe("diffusion_gemma").model)
    assert (len(table.rows), table.num_experts) == (8, 32)
    assert [row.tied_to for row in table.rows[:4]] == [None] * 4
    assert [row.tied_to for row in table.rows[4:]] == [row.path for row in table.rows[:4]]
    assert "tied to model.encoder.language_model.layers.{0-3}.router: the same weights and experts" in str(table)


def test_a_router_that_the_model_does_not_follow_is_described_with_that():
    table = describe_moe(build_tiny_moe("nllb-moe").model)
    assert "only expert_0 and expert_1 compute" in str(table)
    assert all("two argmax" in row.note for row in table.rows)
