"""What the tiny mixture-of-experts models are made of: shared values, and what single model types need besides."""

from typing import Any


# Fields of every text configuration that has them. Synonyms of one quantity stand on one line.
SHARED: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers"), 4),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "kv_n_heads", "num_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 24),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_experts_intermediate_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "max_seq_len"), 64),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "kv_channels", "d_kv"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "hc_lowrank", "swa_head_dim"), 8),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim", "mamba_head_dim"), 8),
    **dict.fromkeys(("linear_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size"), 4),
    **dict.fromkeys(("index_n_heads", "swa_num_key_value_heads", "n_groups", "o_groups"), 2),
    **dict.fromkeys(("index_head_dim", "sliding_window", "router_hidden_size"), 8),
    **dict.fromkeys(("encoder_sparse_step", "num_sparse_encoder_layers", "num_sparse_decoder_layers"), 2),
    "vocab_size": 64,
    "index_topk": 4,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "zero_expert_num": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# Fields of every vision or audio configuration that has them.
TOWER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

_HYBRID = ["linear_attention", "full_attention"] * 2
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}

# Fields of single model types, wherever a configuration of the type occurs.
BY_MODEL_TYPE: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "beam": {"mlp_layer_types": ["dense"] + ["sparse"] * 3},
    "dbrx": {"attn_config": {"kv_n_heads": 4, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v4": {"num_key_value_heads": 1, "mlp_layer_types": ["hash_moe"] + ["moe"] * 3},
    # The sliding layers of this one are sized by keywords that are no fields.
    "dots3_note_text": {"use_sliding_window": False},
    # Product keys: the number of experts is a square, here of 4.
    "doge": {"is_moe": True, "num_experts": 16},
    "dots1": {"n_shared_experts": 1},
    "flint": {"mlp_only_layers": [0]},
    "gemma4_text": {"enable_moe_block": True, "hidden_size_per_layer_input": 0, "global_head_dim": 8},
    "gpt_oss": {"rope_parameters": _YARN},
    "granitemoehybrid": {"layer_types": _HYBRID},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": _HYBRID},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "longcat_flash": {"num_layers": 3},
    # Sliding layers have twice the key heads.
    "mimo_v2_flash": {"num_key_value_heads": 2},
    "mistral4": {"rope_parameters": _YARN | {"llama_4_scaling_beta": 0.1, "max_position_embeddings": 64}},
    "nemotron_h": {"layer_types": ["linear_attention", "moe", "full_attention", "moe"]},
    "nllb-moe": {"decoder_sparse_step": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "switch_transformers": {"num_layers": 4},
    # The released family is top-1 and its configuration allows nothing else.
    "zaya": {"num_experts_per_tok": 1},
}

# Model classes that no auto mapping below names.
MODEL_CLASSES: dict[str, str] = {}

# Modules with the signs of a mixture of experts that hold no token router of their own.
EXCEPTIONS: dict[str, str] = {
    "bamba": "num_experts is a constant 1 in code shared with jamba",
    "gemma4_unified": "the dense sibling of gemma4: the blocks have no experts",
    "granite_docling": "its density router chooses image tiles, not experts",
    "vitpose_backbone": "the expert of an image is given by the index of its data set, not by a router",
}
