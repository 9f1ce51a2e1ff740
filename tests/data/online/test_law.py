"""The state machine of a run in a simulated linear world, without model and Trainer."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hf_mixture.data.online.effects import similarity
from hf_mixture.data.online.estimators import LearnParams
from hf_mixture.data.online.law import MixingLaw
from hf_mixture.data.online.schedule import Rounds
from hf_mixture.data.online.setup import check_blocks, check_rounds, read_prior
from hf_mixture.data.online.solvers import ExponentiatedGradient


class World:
    """Losses that fall by A p in each step; batches hold whole samples, so that shares differ from the weights."""

    def __init__(self, effects: np.ndarray, batch: int | None = None) -> None:
        self.effects, self.batch = effects, batch
        self.losses = np.full(len(effects), 50.0)
        self.taken: list[np.ndarray] = []
        self.segments: list[tuple[int, np.ndarray]] = []

    def change(self, changes: Any, now: int, lag: int) -> None:
        for change in changes:
            at = now + lag if change.step is None else change.step
            assert at >= now
            self.segments = [*(segment for segment in self.segments if segment[0] < at), (at, change.weights)]

    def weights_at(self, step: int) -> np.ndarray:
        return next(weights for start, weights in reversed(self.segments) if start <= step)

    def step(self) -> None:
        weights = self.weights_at(len(self.taken))
        if self.batch is not None:
            counts = np.floor(weights * self.batch + 1e-9)
            counts[np.argsort(-(weights * self.batch - counts), kind="stable")[: int(self.batch - counts.sum())]] += 1
            weights = counts / self.batch
        self.losses = self.losses - self.effects @ weights
        self.taken.append(weights)

    def drawn(self, start: int, end: int) -> np.ndarray:
        return np.mean(self.taken[start:end], axis=0)

    def probe(self) -> Any:
        names = [f"d{i}" for i in range(self.effects.shape[1])]
        return SimpleNamespace(
            step=len(self.taken),
            learning_rate=0.0,
            losses=lambda: self.losses,
            dataset=SimpleNamespace(names=names),
        )


def law(m: int, *, period: int = 20, count: int = 4, lag: int = 1, factor: float = 0.625, **solver: Any) -> MixingLaw:
    rounds = Rounds.fit(period * count, 0, period, num_blocks=2 * m, block_steps=2)
    return MixingLaw(
        LearnParams(2),
        ExponentiatedGradient(0.5, **solver),
        rounds,
        initial=np.full(m, 1 / m),
        floors=np.zeros(m),
        sweeps=2,
        one_hot_factor=factor,
        seed=3,
    )


def run(mixing: MixingLaw, world: World, steps: int, lag: int = 1) -> list[Any]:
    decisions = []
    if not world.taken:
        world.change(mixing.begin(), 0, lag)
    while True:
        if mixing.needs_probe(len(world.taken)):
            decision = mixing.advance(world.probe(), world.drawn)
            if decision is not None:
                world.change(decision.changes, len(world.taken), lag)
                decisions.append((len(world.taken), decision))
        if len(world.taken) == steps:
            return decisions
        world.step()


@pytest.mark.parametrize(("m", "batch"), [(2, None), (3, None), (3, 8), (3, 5)])
def test_effects_are_recovered_in_every_round(m, batch):
    """Batches of 8 and 5 cannot hold .625; the shares as drawn are what A is solved with. A block has two steps."""
    effects = np.random.default_rng(m).normal(0.1, 0.2, (4, m))
    decisions = run(law(m), World(effects, batch), 79)
    assert [step for step, _ in decisions] == [4 * m + 20 * turn for turn in range(4)]
    for _, decision in decisions:
        assert np.abs(decision.effects - 2 * effects).max() <= 1e-9


def test_published_laws_are_recovered_in_their_own_format():
    """A world that follows a published fit, (next loss - loss)_i = sum_j row_i[j] p_j: A is minus the fit."""
    fits = json.loads((Path(__file__).parent / "fixtures" / "law_fits.json").read_text())
    for fit in fits.values():
        rows = [next(iter(fit[domain].values()))["0"] for domain in ("arxiv", "book", "stackexchange")]
        decisions = run(law(3), World(-np.array(rows), 8), 19)
        found = decisions[0][1]
        assert np.abs(found.effects / 2 + np.array(rows)).max() <= 1e-9
        assert similarity(found.effects, -np.array(rows)) == pytest.approx(1.0)
        assert found.weights.argmax() == np.sum(rows, axis=0).argmin()


def test_weights_follow_the_blocks_and_hold_from_the_lag_on():
    effects = np.array([[0.5, 0.0, 0.1], [0.0, 0.2, 0.0], [0.3, 0.1, 0.1]])
    world, mixing = World(effects), law(3)
    decisions = run(mixing, world, 79, lag=2)
    current = np.full(3, 1 / 3)
    for turn, (step, decision) in enumerate(decisions):
        start = 20 * turn
        for block, domain in enumerate(mixing._order(turn)):
            for taken in world.taken[start + 2 * block : start + 2 * block + 2]:
                assert taken.argmax() == domain
                assert taken.max() == 0.625
        assert step == start + 12
        assert all(np.array_equal(taken, current) for taken in world.taken[step : step + 2])
        current = decision.weights
        assert all(np.array_equal(taken, current) for taken in world.taken[step + 2 : start + 20])
    assert decisions[-1][1].weights.argmax() == 0


@pytest.mark.parametrize("solver", [{}, {"update": "reset", "ema": 0.5}])
@pytest.mark.parametrize("cut", [0, 1, 7, 12, 13, 19, 20, 33])
def test_a_run_goes_on_from_its_state(cut, solver):
    """Cut in the middle of LearnParams (1, 7), at a decision (12), before its effect (13), at a new round (20)."""
    effects = np.random.default_rng(0).normal(0.1, 0.2, (3, 3))
    whole, world = law(3, **solver), World(effects)
    expected = run(whole, world, 79, lag=2)

    first, cut_world = law(3, **solver), World(effects)
    run(first, cut_world, cut, lag=2)
    second = law(3, **solver)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    resumed = copy.deepcopy(cut_world)
    resumed.step()
    found = run(second, resumed, 79, lag=2)
    assert len(found) == sum(step > cut for step, _ in expected)
    for (step, a), (other, b) in zip(expected[len(expected) - len(found) :], found, strict=True):
        assert step == other
        assert a.effects.tolist() == b.effects.tolist()
        assert a.weights.tolist() == b.weights.tolist()
    assert [w.tolist() for w in world.taken] == [w.tolist() for w in resumed.taken]


def test_floors_hold_in_blocks_and_decisions():
    rounds = Rounds.fit(40, 0, 20, num_blocks=3, block_steps=2)
    floors = np.array([0.0, 0.0, 0.2])
    solver = ExponentiatedGradient(50.0)
    start = np.array([0.6, 0.4, 0.0])
    mixing = MixingLaw(LearnParams(1), solver, rounds, initial=start, floors=floors, sweeps=1, one_hot_factor=1.0)
    assert mixing.initial == pytest.approx([0.48, 0.32, 0.2])
    assert mixing.blocks[0] == pytest.approx([0.8, 0.0, 0.2], abs=1e-8)
    effects = np.array([[0.9, 0.1, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
    decisions = run(mixing, World(effects), 39)
    assert np.abs(decisions[0][1].effects - 2 * effects).max() <= 1e-6
    assert decisions[-1][1].weights == pytest.approx([0.8, 0.0, 0.2], abs=1e-6)


def test_rounds_fill_the_run():
    assert Rounds.fit(5000, 0, 250, num_blocks=8, block_steps=4).share == pytest.approx(0.128)
    assert Rounds.fit(5000, 0, 250, num_blocks=12, block_steps=6).share == pytest.approx(0.288)
    for steps in (300, 457, 600):
        rounds = Rounds.fit(steps, 0, None, num_blocks=14, block_steps=1)
        assert rounds.share <= 0.1
        assert steps - rounds.count * rounds.period < rounds.period
    plain = Rounds.fit(100, 0, 30)
    assert [plain.start(turn) for turn in range(plain.count)] == [30, 60, 90]
    assert Rounds.fit(100, 10, 30).start(0) == 10
    restricted = Rounds.fit(110, 10, 50, num_blocks=4, block_steps=2)
    assert (restricted.count, restricted.start(0), restricted.locate(9), restricted.locate(70)) == (
        2,
        10,
        (-1, 0),
        (1, 10),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 0, 30), "update_steps=30 does not divide the 100 steps"),
        ((100, 10, 100), "update_steps=100 does not divide the 90 steps"),
        ((100, 100, None), "100 steps before the first round leave 0"),
        ((40, 0, 10), "LearnParams takes 6 blocks of 2 steps = 12 of the 10 steps"),
    ],
)
def test_rounds_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rounds.fit(*arguments, num_blocks=6, block_steps=2)


def test_much_learning_is_warned_of_and_nothing_else_is_refused():
    rounds = Rounds.fit(40, 0, 20, num_blocks=7, block_steps=1)
    with pytest.warns(UserWarning, match=r"delta=0\.35"):
        check_rounds(rounds, 1)
    with pytest.raises(ValueError, match="no step would be trained"):
        check_rounds(Rounds.fit(40, 0, 8, num_blocks=7, block_steps=1), 1)


def test_blocks_too_short_for_the_factor_are_refused():
    mixtures = np.array([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]])
    check_blocks(mixtures, 10)
    with pytest.raises(ValueError, match=r"differ by 0\.8 of the 8 samples"):
        check_blocks(mixtures, 8)


def test_prior():
    assert read_prior({"b": 3, "a": 1}, ("a", "b", "c")).tolist() == [0.25, 0.75, 0.0]
    for bad in ({"z": 1.0}, {"a": -1.0, "b": 2.0}, {"a": 0.0}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="prior="):
            read_prior(bad, ("a", "b"))
