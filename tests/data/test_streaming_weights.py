"""Weights of a mixed stream that change: by caps, by a schedule, and while it is read."""

from __future__ import annotations

import pytest
from mixed_streams import MIXTURE, TOKENS, WEIGHTS, ids, names, streams
from torch.utils.data import DataLoader

from hf_mixture.data import Mixture
from hf_mixture.data.schedule import SourcePolicy
from hf_mixture.data.streaming import MixtureIterableDataset


def test_caps_hold_where_sizes_are_known() -> None:
    policies = {"code": SourcePolicy(max_epochs=2, overflow="renormalise")}
    mixture = Mixture(WEIGHTS, unit="examples", policies=policies)
    sources = {**streams(), "wiki": streams("map_style")["wiki"]}
    found = ids(MixtureIterableDataset(sources, mixture, sizes={"code": 83}, num_examples=3000))
    assert names(found).count("code") == 166
    # 830 positions to the cap, and 5 to 3 for the two others from there on.
    assert abs(names(found).count("wiki") - (830 * 0.5 + 2170 * 5 / 8)) <= 2
    stopped = Mixture(WEIGHTS, unit="examples", policies={"code": SourcePolicy(max_epochs=2, overflow="stop")})
    dataset = MixtureIterableDataset(sources, stopped, sizes={"code": 83}, num_examples=3000)
    found = ids(dataset)
    assert len(found) == len(dataset) < 3000
    assert names(found).count("code") == 166


def test_schedules() -> None:
    later = {"wiki": 0.0, "code": 0.2, "books": 0.8}
    for unit, mixture_unit in (("examples", "examples"), ("fraction", "examples"), ("examples", "tokens")):
        starts = (0, 1024) if unit == "examples" else (0, 0.5)
        schedule = [(starts[0], WEIGHTS), (starts[1], later)]
        mixture = Mixture(WEIGHTS, unit=mixture_unit, schedule=schedule, schedule_unit=unit)
        found = names(ids(MixtureIterableDataset(streams(), mixture, num_examples=2048, block_size=512)))
        assert "wiki" in found[:1024]
        assert "wiki" not in found[1024:]
        if mixture_unit == "examples":
            assert abs(found[1024:].count("books") - 1024 * 0.8) <= 2
    linear = Mixture(
        WEIGHTS, unit="examples", schedule=[(0, WEIGHTS, "linear"), (2048, later)], schedule_unit="examples"
    )
    found = names(ids(MixtureIterableDataset(streams(), linear, num_examples=2048)))
    assert abs(found.count("wiki") - 2048 * 0.25) <= 2


@pytest.mark.parametrize("mixture", [MIXTURE, TOKENS])
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_weights_change_at_the_position_also_in_workers_that_live_on(mixture: Mixture, context: str) -> None:
    dataset = MixtureIterableDataset(streams(), mixture, num_examples=512, block_size=32)
    loader = DataLoader(
        dataset,
        batch_size=8,
        num_workers=2,
        prefetch_factor=1,
        persistent_workers=True,
        multiprocessing_context=context,
        collate_fn=ids,
    )
    batches = []
    for number, batch in enumerate(loader):
        if number == 10:
            dataset.set_weights({"wiki": 0.0, "code": 0.0, "books": 1.0}, at=256)
            with pytest.raises(ValueError, match=r"at=32 lies before the frontier"):
                dataset.set_weights(WEIGHTS, at=32)
        batches.append(batch)
    whole = MixtureIterableDataset(streams(), mixture, num_examples=512, block_size=32)
    whole.set_weights({"wiki": 0, "code": 0, "books": 1}, at=256)
    assert whole.weights_at(255) == WEIGHTS
    assert whole.weights_at(256) == {"wiki": 0.0, "code": 0.0, "books": 1.0}
    by_position = [batches[2 * turn + worker][i] for turn in range(32) for i in range(8) for worker in range(2)]
    assert set(names(by_position[256:])) == {"books"}
    assert "wiki" in names(by_position[200:256])
    if mixture is MIXTURE:
        assert names(by_position) == names(ids(whole))


def test_a_change_behind_a_reader_stops_it() -> None:
    dataset = MixtureIterableDataset(streams(), MIXTURE, num_examples=512, block_size=32)
    rows = iter(dataset)
    for _ in range(100):
        next(rows)
    # The change of another process, whose frontier is another one.
    other = MixtureIterableDataset(streams(), MIXTURE, num_examples=512, block_size=32)
    other.set_weights(WEIGHTS | {"wiki": 0.6, "code": 0.1}, at=64)
    dataset.plan.load_state_dict(other.plan.state_dict())
    with pytest.raises(RuntimeError, match="before 128 were changed after"):
        list(rows)
