"""What a ranking is to be compared with: random experts, and experts that go with a topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hf_mixture.moe.anatomy import MoeRouter, UnsupportedRouterError
from hf_mixture.moe.mote.checks import check_means, resolve
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.ranking import RankedExpert, rank_experts
from hf_mixture.moe.mote.resonance_maps import FtriMaps


if TYPE_CHECKING:
    from numpy.random import Generator

_MOST_TRIES = 1000


def draw_random_edits(routers: Sequence[MoeRouter], like: ExpertEdits, generator: Generator) -> ExpertEdits:
    """Draw experts of all routers, and edit them as given edits do: as many of each operation, in the same mode.

    Args:
        routers: The routers of the model.
        like: The edits.
        generator: Source of chance.

    Returns:
        The edits, without scores; a draw that the routers do not allow is drawn again.

    Raises:
        ValueError: If there are fewer experts than edits, or no draw of a thousand is allowed.

    Example:
        >>> import numpy as np
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture.moe.anatomy import find_routers
        >>> from hf_mixture.moe.mote.baselines import draw_random_edits
        >>> from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> routers = find_routers(MixtralForCausalLM(config))
        >>> like = ExpertEdits([ExpertEdit(routers[1].path, 3, "off")], mode="zero")
        >>> drawn = draw_random_edits(routers, like, np.random.default_rng(0))
        >>> len(drawn), drawn.mode
        (1, 'zero')
    """
    experts = [(router.path, router.layer, expert) for router in routers for expert in range(router.num_experts)]
    if len(experts) < len(like):
        raise ValueError(f"there are {len(like)} edits and {len(experts)} experts; a random set needs as many")
    problem: Exception | None = None
    for _ in range(_MOST_TRIES):
        places = generator.choice(len(experts), size=len(like), replace=False)
        drawn = [
            ExpertEdit(path, expert, edit.op, edit.value, layer)
            for edit, (path, layer, expert) in zip(like.edits, (experts[place] for place in places), strict=True)
        ]
        edits = replace(like, edits=drawn, scores={})
        try:
            resolved = resolve(routers, edits)
            for router in routers:
                check_means(router, resolved.get(router.path, []), edits.mode, edits.force_weight, intercept=False)
        except (ValueError, UnsupportedRouterError) as error:
            problem = error
            continue
        return edits
    raise ValueError(f"{_MOST_TRIES} random sets of {len(like)} experts are all refused by the routers: {problem}")


def topic_ranking(
    maps: FtriMaps, labels: Sequence[str], topics: Sequence[str], target: str, *, normalise: bool = True
) -> tuple[str, list[RankedExpert]]:
    """Rank experts by a topic alone: prompts that do not show the behaviour, of its topic against all others.

    Routing follows the topic first (RASET, arXiv 2605.29708), so that experts of a behaviour that is tied to a topic
    may be experts of the topic. Where both rankings do the same, a map shows no more than the topic.

    Args:
        maps: The maps of the prompts.
        labels: The class of each prompt.
        topics: The topic of each prompt.
        target: The class of the behaviour; its topic is the most frequent one of its prompts.
        normalise: As in `FtriMaps.rows`. Default: True.

    Returns:
        The topic, and the ranking.

    Raises:
        ValueError: If there are not at least two prompts of this topic, and two of others, that do not show the
            behaviour.
    """
    if not len(labels) == len(topics) == len(maps):
        raise ValueError(f"there are {len(labels)} labels and {len(topics)} topics for {len(maps)} prompts")
    showing = [topic for topic, label in zip(topics, labels, strict=True) if label == target]
    if not showing:
        raise ValueError(f"no prompt has the label {target!r}, so that its topic is unknown")
    topic = max(sorted(set(showing)), key=showing.count)
    rest = [place for place, label in enumerate(labels) if label != target]
    sides = ["in" if topics[place] == topic else "out" for place in rest]
    if min(sides.count("in"), sides.count("out")) < 2:
        raise ValueError(
            f"of the prompts without {target!r}, {sides.count('in')} are of the topic {topic!r} and "
            f"{sides.count('out')} of others; the control of the topic needs at least 2 of each: add prompts of the "
            "topic that do not show the behaviour"
        )
    return topic, rank_experts(maps.select(rest).summarise(sides, normalise=normalise), "in")
