"""The tables of quantisation methods in transformers."""

from __future__ import annotations

import pytest
from transformers.quantizers import auto

from hf_mixture._compat.quantizers import register_quantisation
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.quantizer import MwqHfQuantizer


def test_the_method_is_registered_once_however_often_it_is_asked_for():
    for _ in range(2):
        register_quantisation("mwq", MwqConfig, MwqHfQuantizer)
    assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING["mwq"] is MwqConfig
    assert auto.AUTO_QUANTIZER_MAPPING["mwq"] is MwqHfQuantizer
    assert auto.LOADING_ATTRIBUTES_CONFIG_TYPES.count(MwqConfig) == 1


def test_a_method_of_another_package_is_left_alone():
    with pytest.raises(ValueError, match=r"'bitnet' is registered by transformers.* already"):
        register_quantisation("bitnet", MwqConfig, MwqHfQuantizer)
    assert auto.AUTO_QUANTIZER_MAPPING["bitnet"] is not MwqHfQuantizer


def test_loading_arguments_reach_a_quantised_model():
    """The tuple of classes is private; without it, `max_width` would be ignored without a word."""
    saved = MwqConfig((2, 3)).to_dict()
    with pytest.warns(UserWarning, match="max_width"):
        merged = auto.AutoHfQuantizer.merge_quantization_configs(saved, MwqConfig(max_width=2))
    assert (merged.widths, merged.max_width) == ((2, 3), 2)
