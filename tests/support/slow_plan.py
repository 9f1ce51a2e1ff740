"""A plan in plain Python, one draw at a time, in exact arithmetic where the fast one uses floating point."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from hf_mixture.data.permutation import permute
from hf_mixture.data.schedule import Segment


Changes = Sequence[tuple[int, Sequence[float]]]


class SlowPlan:
    """The source, the draw and the row at every position, and the counts at every block end."""

    def __init__(
        self,
        schedule: Sequence[Segment],
        sizes: Sequence[int],
        length: int,
        *,
        changes: Changes = (),
        block_size: int,
        seed: int = 0,
        lengths: Sequence[Sequence[int]] | None = None,
        caps: Sequence[int | None] | None = None,
        stops: Sequence[int | None] | None = None,
        in_order: Sequence[int] = (),
    ) -> None:
        self.schedule = [(int(s.start), exact(s.weights), s.interpolation) for s in schedule]
        self.changes = [(at, exact(weights)) for at, weights in changes]
        self.sizes, self.length, self.seed, self.lengths, self.in_order = sizes, length, seed, lengths, in_order
        num = len(sizes)
        self.caps = [10**18 if cap is None else cap for cap in caps or [None] * num]
        self.stops = [10**18 if stop is None else stop for stop in stops or [None] * num]
        self.drawn, self.target, self.mass = [0] * num, [Fraction(0)] * num, [0] * num
        self.counts = [self.drawn[:]]
        self.rows: dict[int, list[int]] = {}
        self.ends = [0]
        self.stream: list[tuple[int, int, int]] = []
        self.run(block_size)

    def run(self, block_size: int) -> None:
        first_change = min((at for at, _ in self.changes), default=self.length)
        cuts = {start for start, *_ in self.schedule if start < first_change}
        starts = sorted(cuts | set(range(0, self.length, block_size)))
        for number, start in enumerate(starts):
            end = starts[number + 1] if number + 1 < len(starts) else self.length
            quota = self.by_rows(start, end) if self.lengths is None else self.by_lengths(start, end)
            before = self.drawn[:]
            for source in self.order(number, quota):
                if self.drawn[source] == self.stops[source]:
                    return
                self.stream.append((source, self.drawn[source], self.row(source, self.drawn[source])))
                self.drawn[source] += 1
            self.counts.append(self.drawn[:])
            self.ends.append(start + sum(quota))
            if self.drawn != [b + q for b, q in zip(before, quota, strict=True)] or sum(quota) < end - start:
                return

    def order(self, number: int, quota: list[int]) -> list[int]:
        """Sources with the smallest random bits first: 16 of them per position, from Philox (seed, block)."""
        size = sum(quota)
        words = np.random.Philox(key=[self.seed, number]).random_raw(-(-size // 4)).tolist()
        bits = [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)][:size]
        places = sorted(range(size), key=lambda place: (bits[place], place))
        result = [0] * size
        grouped = [source for source, num in enumerate(quota) for _ in range(num)]
        for place, source in zip(places, grouped, strict=True):
            result[place] = source
        return result

    def row(self, source: int, rank: int) -> int:
        if source in self.in_order:
            return rank % self.sizes[source]
        if source not in self.rows:
            draws = np.arange(self.length + 1)
            self.rows[source] = permute(draws, self.sizes[source], seed=self.seed, source=source).tolist()
        return self.rows[source][rank]

    def rule(self, start: int) -> list[Fraction] | None:
        """The weights of the change that holds at a position, if one does."""
        holding = None
        for at, weights in self.changes:
            # A change takes the place of all that was planned for later.
            if at <= start:
                holding = weights
        return holding

    def integral(self, begin: int, end: int, source: int) -> Fraction:
        """The integral of the scheduled weight of a source."""
        total = Fraction(0)
        for number, (start, weights, kind) in enumerate(self.schedule):
            stop = self.schedule[number + 1][0] if number + 1 < len(self.schedule) else 10**15
            low, high = max(begin, start), min(end, stop)
            if low >= high:
                continue
            slope = Fraction(0)
            if kind == "linear" and stop < 10**15:
                slope = (self.schedule[number + 1][1][source] - weights[source]) / (stop - start)
            middle = Fraction(low + high, 2) - start
            total += (weights[source] + slope * middle) * (high - low)
        return total

    def meant(self, start: int, end: int) -> list[Fraction]:
        change = self.rule(start)
        if change is not None:
            return [weight * (end - start) for weight in change]
        return [self.integral(start, end, source) for source in range(len(self.sizes))]

    def due(self, start: int, end: int, source: int, missing: Fraction) -> float:
        """Where the target of a source will have grown by `missing` since the end of a block."""
        change = self.rule(start)
        if change is not None:
            return float(missing / change[source]) if change[source] else float("inf")
        if self.integral(end, 10**13, source) < missing:
            return float("inf")
        low, high = 0.0, 1e13
        for _ in range(75):
            middle = (low + high) / 2
            # The integral up to a fraction of a position, from those of whole ones.
            whole = int(middle)
            got = self.integral(end, end + whole, source)
            got += (self.integral(end + whole, end + whole + 1, source)) * Fraction(middle - whole)
            low, high = (middle, high) if got < missing else (low, middle)
        return high

    def by_rows(self, start: int, end: int) -> list[int]:
        meant = self.meant(start, end)
        able = [m > 0 and n < cap for m, n, cap in zip(meant, self.drawn, self.caps, strict=True)]
        quota = [0] * len(able)
        if not any(able):
            return quota
        total = sum(m for m, ok in zip(meant, able, strict=True) if ok)
        meant = [m * (end - start) / total if ok else Fraction(0) for m, ok in zip(meant, able, strict=True)]
        self.target = [t + m for t, m in zip(self.target, self.limit(meant), strict=True)]
        base = [int(t) for t in self.target]
        due = [
            base[i] - self.target[i]
            if end == self.length
            else (base[i] + 1 - self.target[i]) / meant[i]
            if min(self.caps) < 10**18 and meant[i]
            else self.due(start, end, i, base[i] + 1 - self.target[i])
            for i in range(len(able))
        ]
        for i, ok in enumerate(able):
            if ok:
                quota[i] = max(0, min(base[i], self.caps[i]) - self.drawn[i])

        def counts() -> list[int]:
            return [n + q for n, q in zip(self.drawn, quota, strict=True)]

        early = [i for i, n in enumerate(counts()) if able[i] and n == min(base[i], self.caps[i]) and n < self.caps[i]]
        for i in sorted(early, key=lambda i: due[i]):
            if sum(quota) < end - start:
                quota[i] += 1
        while sum(quota) < end - start and any(
            ok and n < c for ok, n, c in zip(able, counts(), self.caps, strict=True)
        ):
            now = counts()
            quota[
                max(
                    (i for i in range(len(able)) if able[i] and now[i] < self.caps[i]),
                    key=lambda i: self.target[i] - now[i],
                )
            ] += 1
        while sum(quota) > end - start:
            now = counts()
            quota[max((i for i in range(len(able)) if quota[i]), key=lambda i: now[i] - self.target[i])] -= 1
        return quota

    def limit(self, meant: list[Fraction]) -> list[Fraction]:
        """What is above the cap of a source goes to the others, by weight."""
        got, weights = meant[:], meant[:]
        while True:
            room = [max(cap - t, Fraction(0)) for cap, t in zip(self.caps, self.target, strict=True)]
            surplus = sum(max(g - r, Fraction(0)) for g, r in zip(got, room, strict=True))
            got = [min(g, r) for g, r in zip(got, room, strict=True)]
            open_weights = [w if g < r else Fraction(0) for w, g, r in zip(weights, got, room, strict=True)]
            if not surplus or not sum(open_weights):
                return got
            got = [g + surplus * w / sum(open_weights) for g, w in zip(got, open_weights, strict=True)]

    def by_lengths(self, start: int, end: int) -> list[int]:
        assert self.lengths is not None
        meant = self.meant(start, end)
        able = [i for i, m in enumerate(meant) if m > 0 and self.drawn[i] < self.caps[i]]
        quota, gained = [0] * len(meant), [0] * len(meant)
        total = sum(meant[i] for i in able)
        for _ in range(start, end):
            due = {}
            for i in able:
                if self.drawn[i] + quota[i] < self.caps[i]:
                    row = self.lengths[i][self.row(i, self.drawn[i] + quota[i])]
                    due[i] = (self.mass[i] + gained[i] - self.target[i] + Fraction(row, 2)) / meant[i]
            if not due:
                break
            first = min(due, key=lambda i: (due[i], i))
            gained[first] += self.lengths[first][self.row(first, self.drawn[first] + quota[first])]
            quota[first] += 1
        full = [i for i in able if self.drawn[i] + quota[i] >= self.caps[i]]
        gains = {i: self.mass[i] + gained[i] - self.target[i] for i in full}
        rest = sum(gained) - sum(gains.values())
        others = sum(meant[i] for i in able if i not in full)
        for i in able:
            if full:
                self.target[i] += gains[i] if i in gains else meant[i] * rest / others
            else:
                self.target[i] += sum(gained) * meant[i] / total
            self.mass[i] += gained[i]
        return quota


def exact(weights: Sequence[float]) -> list[Fraction]:
    values = [Fraction(weight) for weight in weights]
    return [value / sum(values) for value in values]
