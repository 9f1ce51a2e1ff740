from __future__ import annotations

import pytest
from huggingface_hub import DatasetCard

from hf_mixture.data import Mixture, Source
from hf_mixture.data.mixture_hub import END, START, card_section, update_card


MIXTURE = Mixture(
    {"wiki": 0.7, "a|b": 0.3},
    unit="tokens",
    sources={"wiki": Source("user/wiki", revision="v1", license="CC-BY-SA-4.0")},
    license="CC-BY-4.0",
)


def test_a_new_card_has_metadata_and_the_section() -> None:
    card = DatasetCard(update_card(None, MIXTURE, "me/mix"))
    assert card.data.to_dict() == {"license": "cc-by-4.0", "tags": ["hf_mixture", "data-mixture"]}
    assert "| wiki | 0.7 | user/wiki | v1 | CC-BY-SA-4.0 |" in card.text
    assert "| a\\|b | 0.3 |  |  |  |" in card.text
    assert 'Mixture.from_pretrained("me/mix")' in card.text


def test_what_others_wrote_stays() -> None:
    before = "---\nlicense: mit\n---\n# Data\n\nSee below.\n"
    first = update_card(before, MIXTURE, "me/mix")
    assert first.startswith(before.rstrip())
    more = first.replace("See below.", "See far below.") + "\n## Thanks\n"
    other = Mixture.uniform(["x"], unit="bytes")
    second = update_card(more, other, "me/mix")
    assert "See far below." in second
    assert second.endswith("\n## Thanks\n")
    assert card_section(other, "me/mix") in second
    assert "wiki" not in second
    assert second.count(START) == second.count(END) == 1
    assert update_card(second, other, "me/mix") == second


@pytest.mark.parametrize("card", [f"text {START} text", f"text {END} text", f"{END} {START}"])
def test_a_damaged_card_is_not_touched(card: str) -> None:
    with pytest.raises(ValueError, match="markers"):
        update_card(card, MIXTURE, "me/mix")


def test_a_description_cannot_break_the_section() -> None:
    tricky = Mixture({"a": 1.0}, unit="bytes", description=f"a {END} b {START}")
    card = update_card(None, tricky, "me/mix")
    assert card.count(START) == card.count(END) == 1
    assert update_card(card, tricky, "me/mix") == card
