"""The router classes of transformers: what each computes, and where it keeps its selection bias.

The keys are names of router classes, as the models declare them in `_can_record_outputs["router_logits"]`. A reader
takes the live router, and the block it lies in, and says what this instance computes. A class that is missing here is
an error that names it, not a guess.

Letters: T tokens, H hidden, E experts, C classes (E plus identity or skip classes), K chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from hf_mixture.moe.anatomy.rule import GroupRule, SelectionRule, UnsupportedRouterError


Layout = Literal["uniform", "logits_only", "dense_scores", "one_hot", "combine", "grouped", "skip_class"]
Reader = Callable[[Any, Any], SelectionRule]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One router class.

    Args:
        rule: Reader of the selection rule, from the router and its block; None where the formula is not explicit.
        reason: Why there is no rule.
        layout: What the router returns: the uniform triple, or one of the other forms that `outputs.py` reads.
        bias: Name of the selection bias on its owner.
        bias_owner: Path from the router to the owner of the bias: "" is the router, ".." the block.
        num_choices: Attribute of the router that counts the classes, where they are more than the experts.
        expert_scale: Attribute of the router with a factor for each expert.
        gate: Path of the Linear inside the router that makes the logits, where the weight is not the router's own.
        defect: Why the experts that compute are not those that the router chooses.
    """

    rule: Reader | None = None
    reason: str = ""
    layout: Layout = "uniform"
    bias: str = ""
    bias_owner: Literal["", "..", "moe_statics"] = ""
    num_choices: str = ""
    expert_scale: str = ""
    gate: str = ""
    defect: str = ""


def _groups(router: Any, score: Literal["top2_sum", "max"], fill: float) -> GroupRule:
    return GroupRule(num_groups=router.num_group, num_kept=router.topk_group, score=score, fill=fill)


def _softmax(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(score="softmax", normalise=getattr(router, "norm_topk_prob", True))


def _softmax_raw(_: Any, __: Any) -> SelectionRule:
    return SelectionRule(score="softmax")


def _softmax_of_selected(_: Any, __: Any) -> SelectionRule:
    return SelectionRule(score="identity", gate="softmax_selected")


def _biased_softmax_of_selected(_: Any, __: Any) -> SelectionRule:
    return SelectionRule(score="identity", gate="softmax_selected", bias_on="logits")


def _privacy_filter(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(score="identity", gate="softmax_selected", bias_on="logits", scale=1 / router.top_k)


def _cohere2(router: Any, _: Any) -> SelectionRule:
    if router.expert_selection_fn == "softmax":
        return SelectionRule(score="identity", gate="softmax_selected")
    return SelectionRule(score="identity", gate="sigmoid_selected", normalise=router.norm_topk_prob)


def _deepseek_v2(router: Any, _: Any) -> SelectionRule:
    limited = router.topk_method == "group_limited_greedy"
    return SelectionRule(
        score="softmax",
        gate="choice",
        group=_groups(router, "max", 0.0) if limited else None,
        scale=router.routed_scaling_factor,
    )


def _deepseek_v3(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(
        score="sigmoid",
        bias_on="scores",
        group=_groups(router, "top2_sum", float("-inf")),
        normalise=router.norm_topk_prob,
        eps=1e-20,
        # Beam scales the sum of the experts in its block instead.
        scale=getattr(router, "routed_scaling_factor", 1.0),
    )


def _axk2(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(
        score="sigmoid",
        bias_on="scores",
        group=None if router.num_group is None else _groups(router, "top2_sum", 0.0),
        normalise=router.norm_topk_prob,
        eps=1e-20,
        scale=router.routed_scaling_factor,
    )


def _mistral4(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(
        score="softmax",
        group=_groups(router, "top2_sum", 0.0),
        normalise=getattr(router, "norm_topk_prob", True),
        eps=1e-20,
        scale=router.routed_scaling_factor,
        float32=False,
    )


def _sigmoid(scale: str = "", eps: float = 0.0) -> Reader:
    def read(router: Any, _: Any) -> SelectionRule:
        factor = getattr(router, scale) if scale else 1.0
        return SelectionRule(score="sigmoid", bias_on="scores", normalise=True, eps=eps, scale=factor)

    return read


def _lfm2(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(
        score="sigmoid",
        bias_on="scores" if router.use_expert_bias else None,
        normalise=router.norm_topk_prob,
        eps=1e-6,
        scale=router.routed_scaling_factor,
        float32=False,
    )


def _flint(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(score="sigmoid", normalise=router.norm_topk_prob)


def _named_score(router: Any, _: Any) -> SelectionRule:
    from transformers.activations import ACT2FN

    # The router keeps only the function that its configuration names.
    names = [name for name in ("sigmoid", "sqrtsoftplus") if type(ACT2FN[name]) is type(router.score_fn)]
    if not names:
        raise UnsupportedRouterError(
            f"{type(router).__name__} scores with {type(router.score_fn).__name__}; known are sigmoid and sqrtsoftplus"
        )
    return SelectionRule(
        score=names[0], bias_on="scores", normalise=True, eps=1e-20, scale=router.routed_scaling_factor, float32=False
    )


def _kolibri1(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(score="identity", gate="sigmoid_selected", bias_on="scores", normalise=router.norm_topk_prob)


def _ernie4_5(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(score="softmax", bias_on="scores", normalise=True, min_sum=router.norm_min)


def _longcat(router: Any, _: Any) -> SelectionRule:
    return SelectionRule(score="softmax", bias_on="scores", scale=router.routed_scaling_factor)


def _zaya(_: Any, __: Any) -> SelectionRule:
    return SelectionRule(score="softmax", bias_on="scores", float32=False)


def _dbrx(_: Any, block: Any) -> SelectionRule:
    order = block.moe_normalize_expert_weights
    if order not in (None, 1, 1.0):
        raise UnsupportedRouterError(
            f"DbrxFFN normalises the weights by their norm of order {order}; known are 1 and no normalisation"
        )
    return SelectionRule(score="softmax", normalise=order is not None, float32=False)


def _gemma4(_: Any, __: Any) -> SelectionRule:
    return SelectionRule(score="identity", normalise=True, probabilities=True)


def _llama4(_: Any, __: Any) -> SelectionRule:
    return SelectionRule(score="identity", gate="sigmoid_selected")


_A = Family(rule=_softmax)
_C = Family(rule=_deepseek_v3, bias="e_score_correction_bias")
_B = Family(rule=_softmax_of_selected)
_GEMMA = Family(rule=_gemma4, expert_scale="per_expert_scale", gate="proj")
_ERNIE = Family(rule=_ernie4_5, bias="e_score_correction_bias", bias_owner="moe_statics")
_V2 = Family(rule=_deepseek_v2)
_PLAIN = Family(rule=_sigmoid(), bias="e_score_correction_bias")
_NAMED = Family(rule=_named_score, bias="e_score_correction_bias")

FAMILIES: dict[str, Family] = {
    # softmax over all experts, then top k
    "FlexOlmoTopKRouter": _A,
    "HunYuanMoEV1Gate": Family(rule=_softmax, gate="wg"),
    "JambaTopKRouter": Family(rule=_softmax_raw),
    "LaraMiniTopKRouter": _A,
    "MellumTopKRouter": _A,
    "MiniMaxTopKRouter": _A,
    "MixtralTopKRouter": _A,
    "OlmoeTopKRouter": _A,
    "Qwen2MoeTopKRouter": _A,
    "Qwen3MoeTopKRouter": _A,
    "Qwen3NextTopKRouter": _A,
    "Qwen3OmniMoeTalkerTextTopKRouter": _A,
    "Qwen3OmniMoeTextTopKRouter": _A,
    "Qwen3OmniMoeThinkerTextTopKRouter": _A,
    "Qwen3VLMoeTextTopKRouter": _A,
    "Qwen3_5MoeTopKRouter": _A,
    "Qwen4ExpTextTopKRouter": _A,
    "DiffusionGemmaTextRouter": _GEMMA,
    "Gemma4TextRouter": _GEMMA,
    # top k of the logits, then softmax or sigmoid over the chosen
    "AriaTextTopKRouter": _B,
    "Cohere2MoeTopKRouter": Family(rule=_cohere2),
    "GptOssTopKRouter": Family(rule=_biased_softmax_of_selected, bias="bias"),
    "GraniteMoeHybridTopKRouter": _B,
    "GraniteMoeSWATopKRouter": _B,
    "GraniteMoeSharedTopKRouter": _B,
    "GraniteMoeTopKRouter": _B,
    "Llama4Router": Family(rule=_llama4, layout="dense_scores"),
    "OpenAIPrivacyFilterTopKRouter": Family(rule=_privacy_filter, bias="bias"),
    # groups
    "AXK1TopkRouter": _C,
    "AXK2TopkRouter": Family(rule=_axk2, bias="e_score_correction_bias"),
    "BailingHybridTopkRouter": _C,
    "BeamTopKRouter": _C,
    "DeepseekOcr2TextTopkRouter": _V2,
    "DeepseekV2TopkRouter": _V2,
    "DeepseekV32TopkRouter": _C,
    "DeepseekV3TopkRouter": _C,
    "Dots1TopkRouter": _C,
    "Dots3NoteTextTopkRouter": _C,
    "ExaoneMoeTopkRouter": _C,
    "Glm4MoeLiteTopkRouter": _C,
    "Glm4MoeTopkRouter": _C,
    "Glm4vMoeTextTopkRouter": _C,
    "Glm5NextTextTopkRouter": _C,
    "GlmMoeDsaTopkRouter": _C,
    "HYV4TopkRouter": _C,
    "HYV4VLTopkRouter": _C,
    "KimiLinearTopkRouter": _C,
    "MiMoV2FlashTopkRouter": _C,
    "Mistral4TopkRouter": Family(rule=_mistral4),
    "MistralLarge4TextTopkRouter": Family(rule=_mistral4),
    "NemotronHTopkRouter": _C,
    "SolarOpenTopkRouter": _C,
    "UnlimitedOcrTextTopkRouter": _V2,
    # sigmoid or another score, most with a bias on the scores
    "AfmoeTokenChoiceRouter": Family(
        rule=_sigmoid("route_scale", 1e-20), bias="expert_bias", bias_owner="..", gate="gate"
    ),
    "DeepseekV4TopKRouter": _NAMED,
    "Dots3NoteVisionTopKRouter": Family(
        rule=_sigmoid("router_scaling_factor", 1e-20), bias="e_score_correction_bias", bias_owner=".."
    ),
    "Ernie4_5_MoeTopKRouter": _ERNIE,
    "Ernie4_5_VLMoeMoeTopKRouter": _ERNIE,
    "FlintTopKRouter": Family(rule=_flint),
    "HYV3TopKRouter": Family(
        rule=_sigmoid("router_scaling_factor", 1e-20), bias="e_score_correction_bias", bias_owner=".."
    ),
    "Inkling2LoopTopKRouter": _NAMED,
    "Inkling2TopKRouter": _NAMED,
    "Kolibri1TopKRouter": Family(rule=_kolibri1, bias="e_score_correction_bias"),
    "LagunaTopKRouter": _PLAIN,
    "Lfm2MoeTopKRouter": Family(rule=_lfm2, bias="expert_bias", bias_owner=".."),
    "LongcatFlashTopkRouter": Family(
        rule=_longcat, bias="e_score_correction_bias", num_choices="n_routed_experts", gate="classifier"
    ),
    "MiniMaxM2TopKRouter": Family(rule=_sigmoid(), bias="e_score_correction_bias", bias_owner=".."),
    "MiniMaxM3VLTopKRouter": _PLAIN,
    "MuseSparkTopkRouter": Family(rule=_sigmoid("routed_scaling_factor", 1e-15), bias="e_score_correction_bias"),
    "Step3p7TopKRouter": _PLAIN,
    "ZayaRouter": Family(rule=_zaya, layout="skip_class", bias="balancing_biases", num_choices="num_router_classes"),
    # a contract of their own
    "DbrxRouter": Family(rule=_dbrx, reason="its block takes the top k", layout="logits_only", gate="layer"),
    "DeepseekV4HashRouter": Family(reason="the experts of a token come from a table of token ids, not from scores"),
    "InklingTopkRouter": Family(
        reason="shared experts take part in the normalisation of the weights", bias="e_score_correction_bias"
    ),
    "JetMoeTopKGating": Family(rule=_softmax_of_selected, layout="grouped", gate="layer"),
    "NllbMoeTop2Router": Family(
        reason="two argmax with a capacity for each expert",
        layout="combine",
        gate="classifier",
        defect="transformers 5.23 takes the one-hot mask of this router for indices, so that only expert_0 and "
        "expert_1 compute, whatever it chooses",
    ),
    "PhimoeTopKRouter": Family(reason="sparsemixer normalises over the experts near the best one"),
    "SwitchTransformersTop1Router": Family(
        reason="argmax with a capacity for each expert", layout="one_hot", gate="classifier"
    ),
}

# Recorded classes whose routing cannot be read from outside, and why.
UNREADABLE: dict[str, str] = {
    "DogeCDMoE": "product keys are combined inside the block, which never exposes the experts of a token",
}
