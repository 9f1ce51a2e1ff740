"""Groups of ranks against the slow way, against Megatron-Core where a checkout is at hand, and against the paper."""

from __future__ import annotations

import ast
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_mixture.moe.parallel.folding import FoldingPlan
from hf_mixture.moe.parallel.groups import divisors, nodes_of, rank_groups, stays_in_node


# A checkout of NVIDIA/Megatron-LM, of which two functions without dependencies are run.
MEGATRON = os.environ.get("MEGATRON_LM")


def settings() -> Iterator[FoldingPlan]:
    """All layouts of 8 to 64 ranks with sizes of 1, 2, 4 and 8."""
    for world in (8, 16, 32, 64):
        for tp, cp, ep, etp, pp in itertools.product((1, 2, 4, 8), repeat=5):
            if world % (tp * cp * pp) == 0 and world % (etp * ep * pp) == 0:
                yield FoldingPlan(world=world, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)


def slow_groups(sizes: dict[str, int], dimensions: tuple[str, ...]) -> list[list[int]]:
    """Count through all places, the first dimension fastest, and put equal places of the others together."""
    names = list(sizes)
    places = [
        dict(zip(names[::-1], place, strict=True))
        for place in itertools.product(*map(range, list(sizes.values())[::-1]))
    ]
    groups: dict[Any, list[int]] = {}
    for rank, place in enumerate(places):
        groups.setdefault(tuple(place[name] for name in names if name not in dimensions), []).append(rank)
    return sorted(groups.values())


def test_there_are_as_many_settings_as_were_counted():
    assert len(list(settings())) == 1740


def test_groups_are_the_slow_way():
    """Acceptance check 1: for all settings, all dimensions of both mappings, and pairs of them."""
    for plan in settings():
        dense = {"tp": plan.tp, "cp": plan.cp, "dp": plan.dp, "pp": plan.pp}
        expert = {"etp": plan.etp, "ep": plan.ep, "edp": plan.edp, "pp": plan.pp}
        for sizes in (dense, expert):
            for name in sizes:
                groups = plan.groups(name)
                assert groups == slow_groups(sizes, (name,))
                assert sorted(itertools.chain(*groups)) == list(range(plan.world))
        # The ranks that hold one stage are the same in both mappings, so that the pipelines are too.
        assert plan.groups("tp", "cp", "dp") == plan.groups("etp", "ep", "edp")
        assert slow_groups(dense, ("pp",)) == slow_groups(expert, ("pp",))


@pytest.mark.skipif(MEGATRON is None, reason="MEGATRON_LM names no checkout of NVIDIA/Megatron-LM")
def test_groups_are_those_of_megatron():
    """Acceptance check 1, against the generator that Megatron-Core runs."""
    source = Path(str(MEGATRON), "megatron/core/parallel_state.py").read_text(encoding="utf-8")
    wanted = ("generate_masked_orthogonal_rank_groups", "RankGenerator")
    body = [node for node in ast.parse(source).body if getattr(node, "name", "") in wanted]
    names: dict[str, Any] = {}
    exec("from typing import *", names)  # noqa: S102 - annotations of the functions below
    exec(compile(ast.Module(body, type_ignores=[]), "parallel_state.py", "exec"), names)  # noqa: S102 - see MEGATRON
    order = "tp-cp-ep-dp-pp"
    for plan in settings():
        dense = names["RankGenerator"](tp=plan.tp, ep=1, dp=plan.dp, pp=plan.pp, cp=plan.cp, order=order)
        expert = names["RankGenerator"](tp=plan.etp, ep=plan.ep, dp=plan.edp, pp=plan.pp, cp=1, order=order)
        for name in ("tp", "cp", "dp", "pp"):
            assert sorted(dense.get_ranks(name)) == plan.groups(name)
        for theirs, ours in {"tp": "etp", "ep": "ep", "dp": "edp", "pp": "pp"}.items():
            assert sorted(expert.get_ranks(theirs)) == plan.groups(ours)


def listing_of_the_paper(plan: FoldingPlan, *, etp_mended: bool) -> str:
    """What becomes of the listing in the paper: an error, other pipelines, or right."""
    size = plan.etp if etp_mended else plan.tp
    if plan.pp * plan.ep * size * plan.edp != plan.world:
        return "error"
    dense = {"tp": plan.tp, "cp": plan.cp, "pp": plan.pp, "dp": plan.dp}
    expert = {"etp": size, "ep": plan.ep, "pp": plan.pp, "edp": plan.edp}
    return "right" if slow_groups(dense, ("pp",)) == slow_groups(expert, ("pp",)) else "other pipelines"


def test_the_listing_of_the_paper_is_wrong():
    """Why its order is not ours; if this fails, one of the two has been misread."""
    verbatim = [listing_of_the_paper(plan, etp_mended=False) for plan in settings()]
    mended = [listing_of_the_paper(plan, etp_mended=True) for plan in settings()]
    assert [verbatim.count(kind) for kind in ("error", "other pipelines", "right")] == [1254, 194, 292]
    assert mended.count("other pipelines") == 726


def test_nodes():
    assert nodes_of([0, 7, 8, 31], 8) == {0, 1, 3}
    # 8 experts' ranks are neighbours when they are folded over tp and dp, and leave the node when they are not.
    assert stays_in_node(FoldingPlan(world=32, tp=2, ep=8).groups("ep"), 8)
    assert not stays_in_node(rank_groups({"tp": 2, "ep": 8, "edp": 2}, ["ep"]), 8)


def test_divisors():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(1) == [1]
    assert divisors(49) == [1, 7, 49]
    with pytest.raises(ValueError, match="'ep' is no dimension; the dimensions are tp, dp"):
        rank_groups({"tp": 2, "dp": 2}, ["ep"])
