from __future__ import annotations

import pytest
from huggingface_hub import DatasetCard

from hf_mixture.data import Mixture, Source
from hf_mixture.data.mixture_hub import END, START, card_section, update_card
from hf_mixture.data.schedule import SourcePolicy


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


def test_the_section_says_how_the_weights_were_found_and_what_they_need() -> None:
    provenance = {
        "method": "regmix",
        "objective": "loss/wiki",
        "direction": "minimize",
        "predicted": 2.5,
        "uncertainty": 0.1,
        "command": f"hf-mixture mix search regmix.yaml {END}\n--seed 1",
    }
    sources = {
        "wiki": Source("user/wiki", size=(("tokens", 1000),)),
        "code": Source("user/code", size=(("tokens", 500),)),
    }
    mixture = Mixture(
        {"wiki": 0.75, "code": 0.25},
        unit="tokens",
        sources=sources,
        policies={"code": SourcePolicy(max_epochs=4, overflow="stop")},
        budget=(2000, "tokens"),
        metadata={"provenance": provenance},
    )
    card = update_card(None, mixture, "me/mix")
    assert "| domain | weight | source | revision | epochs | licence | limits |" in card
    assert "| wiki | 0.75 | user/wiki |  | 1.5 |  |  |" in card
    assert "| code | 0.25 | user/code |  | 1 |  | at most 4 epochs, then stop |" in card
    assert "Budget: 2000 tokens." in card
    assert "- method: regmix\n- objective: loss/wiki (minimize)\n- predicted value: 2.5 ± 0.1\n" in card
    assert "\nhf-mixture mix search regmix.yaml --seed 1\n" in card
    assert card.count(START) == card.count(END) == 1
    assert update_card(card, mixture, "me/mix") == card


def test_the_section_shows_a_schedule() -> None:
    half = {"a": 0.5, "b": 0.5}
    mixture = Mixture(half, unit="tokens", schedule=[(0, half, "linear"), (0.9, (0, 1))], schedule_unit="fraction")
    section = card_section(mixture, "me/mix")
    assert "| from (fraction) | a | b | then |\n|---|---|---|---|\n| 0 | 0.5 | 0.5 | linear |\n" in section
    assert "| 0.9 | 0 | 1 | constant |" in section
