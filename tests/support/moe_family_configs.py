"""What the tiny mixture-of-experts models are made of: shared values, and what single model types need besides."""

from typing import Any

import transformers
from packaging.version import Version


# Names that one quantity has in the configurations of different families.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "num_experts": ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
    "top_k": ("num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "top_k_experts"),
}

# Fields of every text configuration that has them.
SHARED: dict[str, Any] = {
    **dict.fromkeys(SYNONYMS["num_experts"], 8),
    **dict.fromkeys(SYNONYMS["top_k"], 2),
    **dict.fromkeys(("n_group", "zero_expert_num"), 4),
    "topk_group": 2,
    **dict.fromkeys(("num_hidden_layers", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers"), 4),
    **dict.fromkeys(("encoder_sparse_step", "num_sparse_encoder_layers", "num_sparse_decoder_layers"), 2),
    **dict.fromkeys(("hidden_size", "d_model", "thinker_hidden_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "kv_n_heads", "num_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_d_state", "ssm_state_size", "index_topk"), 4),
    **dict.fromkeys(("linear_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("index_n_heads", "swa_num_key_value_heads", "n_groups", "o_groups", "num_code_groups"), 2),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 24),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size", "moe_hidden_size"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_experts_intermediate_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim"), 16),
    **dict.fromkeys(("projector_hidden_size", "router_hidden_size"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "kv_channels", "d_kv"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "hc_lowrank", "swa_head_dim"), 8),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim", "mamba_head_dim"), 8),
    **dict.fromkeys(("index_head_dim", "sliding_window"), 8),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "max_seq_len"), 64),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    **{"first_k_dense_replace": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}

# Fields of every vision or audio configuration that has them.
TOWER: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "adapter_in_dim", "adapter_input_size", "out_hidden_size_audio"), 16),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "moe_intermediate_size", "mlp_dim", "decoder_dim"), 16),
    **dict.fromkeys(("num_hidden_layers", "depth", "encoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("out_hidden_size", "text_hidden_size", "adapter_out_dim", "output_dim"), 32),
    **dict.fromkeys(("image_size", "max_source_positions", "max_position_embeddings"), 16),
    **dict.fromkeys(("num_position_embeddings", "position_embedding_size"), 16),
    **dict.fromkeys(("projection_hidden_dim", "projection_intermediate_size", "vision_output_dim"), 16),
    **dict.fromkeys(("projector_input_dim", "projector_output_dim", "downsample_hidden_size", "output_channels"), 16),
    "patch_size": 4,
    "head_dim": 8,
}

_DENSE_FIRST = ["dense", "sparse", "sparse", "sparse"]
_HYBRID = ["linear_attention", "full_attention"] * 2
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}

_MROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}

# Fields of single model types, wherever a configuration of the type occurs.
BY_MODEL_TYPE: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "beam": {"mlp_layer_types": _DENSE_FIRST},
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [16, 16], "global_attn_indexes": (0,), "window_size": 2},
    "unlimited_ocr_sam_vision_model": {"downsample_channels": [16, 16], "global_attn_indexes": (0,), "window_size": 2},
    "deepseek_ocr2_text": {"mlp_layer_types": _DENSE_FIRST},
    "dots3_note_vision_encoder": {
        "num_hidden_layers": 3,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "diffusion_gemma": {"canvas_length": 9},
    # Experts for text tokens and, narrower, for vision tokens.
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [16, 8],
        "rope_parameters": _MROPE | {"mrope_section": [1, 1, 2]},
    },
    "glm4v_moe_text": {"rope_parameters": _MROPE | {"mrope_section": [2, 1, 1]}},
    "glm5_next_text": {"mlp_layer_types": _DENSE_FIRST, "index_kpool": 2, "qk_rope_head_dim": 0},
    "hy_v4_vl_text": {"rope_parameters": _MROPE | {"mrope_section": [2, 1, 1]}},
    "inkling_audio": {"n_mel_bins": 4},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 61},
    # Fields that the code reads and the configuration class lacks.
    "qwen3_omni_moe_talker": {"spatial_merge_size": 2},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 16},
    "step3p5": {"mlp_layer_types": _DENSE_FIRST},
    "muse_spark_audio": {"patch_sizes": (2,), "hidden_sizes": (16,), "depths": (1,)},
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
    # The configuration allows top-1 only. Smaller weights leave the MLP of the router with next to no logits.
    "zaya": {"num_experts_per_tok": 1, "initializer_range": 0.6},
}

# Package and model class of families that no auto mapping names.
UNMAPPED: dict[str, tuple[str, str]] = {
    "qwen3_omni_moe_talker": ("qwen3_omni_moe", "Qwen3OmniMoeTalkerForConditionalGeneration"),
}

# Families that the installed version of transformers cannot run at all, and a part of its error.
BROKEN: dict[str, str] = {}
if Version(transformers.__version__).release[:2] == (5, 24):
    BROKEN["llama4"] = "'MoeCausalLMOutputWithPast' object has no attribute 'image_outputs'"

# Packages whose modelling code speaks of experts and holds no router of tokens.
EXCEPTIONS: dict[str, str] = {
    "bamba": "num_experts is the constant 1, in code shared with jamba",
    "cosmos3_omni": "names weights of a video generator that it does not load",
    "decision_transformer": "speaks of an expert policy",
    "evolla": "its prompt speaks of an expert on proteins",
    "nemotron3_5_transcribe": "cites a class of another library",
    "pi0": "its action expert is one dense model",
    "vitpose": "hands the index of a data set to vitpose_backbone",
    "vitpose_backbone": "the index of the data set of an image names its expert: nothing is routed",
}
