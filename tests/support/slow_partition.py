"""PPP as its definition reads: one row, one component, one pair at a time. Slow; the reference for the fast one."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linprog
from scipy.stats import multivariate_normal

from hf_mixture.data.clustering.dip import critical_dip


class SlowPartition:
    """Clusters of rows; the parameters are those of `ProbabilisticPartition`, families and tests as tuples."""

    def __init__(
        self,
        *,
        family=("spherical",),
        merge_family=("full",),
        test=("bic",),
        em_steps=1,
        min_agreement=0.9,
        margin=0.0,
        start_clusters=None,
        num_components=50,
        ridge=1e-4,
        tolerance=1e-6,
    ):
        self.family, self.merge_family, self.test = family, merge_family, test
        self.em_steps, self.min_agreement, self.margin = em_steps, min_agreement, margin
        self.start_clusters, self.num_components = start_clusters, num_components
        self.relative_ridge, self.tolerance = ridge, tolerance

    def fit(self, data, weights=None):
        """Cluster of each row."""
        keys = self.prepare(data, weights)
        if self.start_clusters is None:
            self.grow(list(range(len(keys))), self.family)
        else:
            self.bisect(list(range(len(keys))))
        clusters = [list(leaf) for leaf in self.leaves]
        if self.merge_family is not None:
            clusters = self.merge(clusters)
        clusters.sort(key=lambda rows: (-self.weights[rows].sum(), *self.moments(rows)[0]))
        label = {keys[row]: number for number, rows in enumerate(clusters) for row in rows}
        return np.array([label[tuple(float(value) + 0.0 for value in row)] for row in data])

    def prepare(self, data, weights=None):
        """Distinct rows in order, with their weights."""
        given = [tuple(float(value) + 0.0 for value in row) for row in data]
        weights = [1.0] * len(given) if weights is None else list(weights)
        counts = {}
        for row, weight in zip(given, weights, strict=True):
            counts[row] = counts.get(row, 0.0) + weight
        keys = sorted(counts)
        self.weights = np.array([counts[key] for key in keys])
        self.points = self.reduce(np.array(keys))
        total = self.weights.sum()
        self.min_size = max(10, math.ceil(math.sqrt(total) / 2))
        _, covariance = self.moments(range(len(keys)))
        self.ridge = self.relative_ridge * np.trace(covariance) / len(covariance)
        self.leaves = []
        return keys

    def reduce(self, points):
        """The columns that vary, or their principal components."""
        points = points[:, [j for j in range(points.shape[1]) if len(set(points[:, j])) > 1]]
        if points.shape[1] <= self.num_components:
            return points
        centred = points - self.weights @ points / self.weights.sum()
        _, _, axes = np.linalg.svd(centred * np.sqrt(self.weights)[:, None], full_matrices=False)
        axes = [axis * np.sign(axis[np.abs(axis).argmax()]) for axis in axes[: self.num_components]]
        return centred @ np.array(axes).T

    def moments(self, rows, weights=None):
        weights = self.weights if weights is None else weights
        total = sum(weights[row] for row in rows)
        mean = sum(weights[row] * self.points[row] for row in rows) / total
        covariance = 0
        for row in rows:
            away = self.points[row] - mean
            covariance = covariance + weights[row] * np.outer(away, away) / total
        return mean, covariance

    def halves(self, rows):
        """Lloyd's algorithm from the principal axis; None where the axis is arbitrary or the rows are equal."""
        if len(rows) < 2:
            return None
        mean, _ = self.moments(rows)
        scaled = np.array([math.sqrt(self.weights[row]) * (self.points[row] - mean) for row in rows])
        _, values, axes = np.linalg.svd(scaled)
        axis = axes[0] * np.sign(axes[0][np.abs(axes[0]).argmax()])
        if len(values) > 1 and values[1] >= values[0] * (1 - 1e-8):
            return None
        step = values[0] / math.sqrt(sum(self.weights[row] for row in rows)) * axis
        centres, labels = [mean - step, mean + step], None
        for _ in range(300):
            found = [
                int(np.sum((self.points[row] - centres[1]) ** 2) < np.sum((self.points[row] - centres[0]) ** 2))
                for row in rows
            ]
            if found == labels:
                break
            labels = found
            centres = [
                self.moments([row for row, label in zip(rows, labels, strict=True) if label == side])[0]
                for side in (0, 1)
            ]
        self.centres = centres
        return [[row for row, label in zip(rows, labels, strict=True) if label == side] for side in (0, 1)]

    def weight(self, rows):
        return sum(self.weights[row] for row in rows)

    def grow(self, rows, families):
        if self.weight(rows) >= 2 * self.min_size:
            sides = self.halves(rows)
            if sides and min(map(self.weight, sides)) >= self.min_size and self.score(sides, families) > 0:
                for side in sides:
                    self.grow(side, families)
                return
        self.leaves.append(rows)

    def bisect(self, rows):
        open_leaves = [rows]
        while open_leaves and len(open_leaves) + len(self.leaves) < self.start_clusters:
            scatter = [self.weight(leaf) * np.trace(self.moments(leaf)[1]) for leaf in open_leaves]
            leaf = open_leaves.pop(int(np.argmax(scatter)))
            sides = self.halves(leaf) if self.weight(leaf) >= 2 * self.min_size else None
            if sides and min(map(self.weight, sides)) >= self.min_size:
                open_leaves += sides
            else:
                self.leaves.append(leaf)
        self.leaves += open_leaves

    def merge(self, clusters):
        while len(clusters) > 1:
            pairs = [(one, two) for two in range(len(clusters)) for one in range(two)]
            scores = [self.score([clusters[one], clusters[two]], self.merge_family) for one, two in pairs]
            if min(scores) > 0:
                break

            def rank(place, scores=scores, pairs=pairs, clusters=clusters):
                union = clusters[pairs[place][0]] + clusters[pairs[place][1]]
                return scores[place], self.weight(union), *self.moments(sorted(union))[0]

            one, two = pairs[min(range(len(pairs)), key=rank)]
            union = sorted(clusters[one] + clusters[two])
            clusters = [rows for place, rows in enumerate(clusters) if place not in (one, two)] + [union]
        return clusters

    def score(self, sides, families):
        scores = []
        for test in self.test:
            if test == "bic":
                scores.append(max(self.gain(sides, family) for family in families))
            elif test == "cross_fit":
                scores.append(max(self.cross_fit(sides, family) for family in families) - self.margin)
            elif test == "dip":
                direction = self.moments(sides[1])[0] - self.moments(sides[0])[0]
                rows = sorted(sides[0] + sides[1])
                height = slow_dip([self.points[row] @ direction for row in rows], [self.weights[row] for row in rows])
                scores.append(height - max(critical_dip(self.weight(rows)), 0.01))
            else:
                scores.append(self.stability(sides) - self.min_agreement + 1e-12)
        return min(scores)

    def covariances(self, family, parts, whole):
        """Covariances of components of (weight, mean, covariance), with the ridge."""
        d = self.points.shape[1]
        total = sum(part[0] for part in parts)
        if family in ("tied", "tied_diag"):
            found = [sum(part[0] / total * part[2] for part in parts)] * len(parts)
        else:
            found = [part[2] for part in parts]
        if family in ("diag", "tied_diag"):
            found = [np.diag(np.diag(one)) for one in found]
        if family == "spherical":
            found = [np.eye(d) * np.trace(one) / d for one in found]
        if family == "pdiag":
            axes = np.linalg.eigh(whole)[1]
            found = [axes @ np.diag(np.diag(axes.T @ one @ axes)) @ axes.T for one in found]
        return [one + self.ridge * np.eye(d) for one in found]

    def parameters(self, family, k):
        d = self.points.shape[1]
        sizes = {
            "full": k * d * (d + 1) / 2,
            "tied": d * (d + 1) / 2,
            "diag": k * d,
            "pdiag": k * d,
            "tied_diag": d,
            "spherical": k,
        }
        return sizes[family] + k * d + k - 1

    def em(self, rows, sides, family):
        """The mixture from the partition: components, and for each row the joint densities of the last E step."""
        parts = [(self.weight(side), *self.moments(side)) for side in sides]
        _, whole = self.moments(rows)
        last, step = -math.inf, 0
        while True:
            step += 1
            covariances = self.covariances(family, parts, whole)
            total = sum(part[0] for part in parts)
            shares = [math.log(part[0] / total) for part in parts]
            normals = [multivariate_normal(part[1], one) for part, one in zip(parts, covariances, strict=True)]

            def joint_of(at, shares=shares, normals=normals):
                columns = [np.atleast_1d(normal.logpdf(self.points[at])) for normal in normals]
                return dict(zip(at, np.transpose(columns) + shares, strict=True))

            joint = joint_of(rows)
            value = sum(self.weights[row] * np.logaddexp(*joint[row]) for row in rows) / self.weight(rows)
            if step == self.em_steps or (self.em_steps is None and value - last < self.tolerance):
                return joint_of, joint, value
            last = value
            shares = {row: np.exp(joint[row] - np.logaddexp(*joint[row])) * self.weights[row] for row in rows}
            parts = []
            for side in (0, 1):
                weights = {row: shares[row][side] for row in rows}
                parts.append((sum(weights.values()), *self.moments(rows, weights)))

    def one(self, rows, family, at):
        """Log-likelihood of one Gaussian of some rows, per row of others."""
        mean, covariance = self.moments(rows)
        one = self.covariances(family, [(1, mean, covariance)], covariance)[0]
        values = np.atleast_1d(multivariate_normal(mean, one).logpdf(self.points[at]))
        return sum(self.weights[row] * value for row, value in zip(at, values, strict=True)) / self.weight(at)

    def gain(self, sides, family):
        rows = sorted(sides[0] + sides[1])
        weight = self.weight(rows)
        if family == "auto":
            family = "full" if weight >= 5 * self.points.shape[1] else "diag"
        _, joint, two = self.em(rows, sides, family)
        second = set(sides[1])
        agreement = sum(self.weights[row] * ((joint[row][1] > joint[row][0]) == (row in second)) for row in rows)
        if agreement / weight < self.min_agreement:
            return -1.0
        bic = [
            -2 * weight * value + self.parameters(family, k) * math.log(weight)
            for k, value in ((1, self.one(rows, family, rows)), (2, two))
        ]
        return (bic[0] - bic[1]) / weight

    def cross_fit(self, sides, family):
        rows, second = sorted(sides[0] + sides[1]), set(sides[1])
        gains = []
        for ours, theirs in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
            parts = [[row for row in ours if (row in second) == side] for side in (False, True)]
            if not all(parts):
                return -math.inf
            joint_of, _, _ = self.em(ours, parts, family)
            joint = joint_of(theirs)
            two = sum(self.weights[row] * np.logaddexp(*joint[row]) for row in theirs) / self.weight(theirs)
            gains.append(two - self.one(ours, family, theirs))
        return min(gains)

    def stability(self, sides):
        rows, second = sorted(sides[0] + sides[1]), set(sides[1])
        smallest = 1.0
        for ours, theirs in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
            if self.halves(ours) is None:
                return 0.0
            first, other = self.centres
            there = [
                np.sum((self.points[row] - other) ** 2) < np.sum((self.points[row] - first) ** 2) for row in theirs
            ]
            share = sum(
                self.weights[row] * (side == (row in second)) for row, side in zip(theirs, there, strict=True)
            ) / self.weight(theirs)
            smallest = min(smallest, max(share, 1 - share))
        return smallest


def slow_dip(values, weights):
    """The dip as a linear program for each mode: the unimodal distribution that is nearest to the sample."""
    points = sorted(set(values))
    mass = np.array([sum(w for v, w in zip(values, weights, strict=True) if v == point) for point in points])
    upper = np.cumsum(mass / mass.sum())
    lower = upper - mass / mass.sum()
    n, best = len(points), 1.0
    if n < 2:
        return 0.0
    for mode in range(n):
        left, right = [], []

        def at_most(bound, left=left, right=right, **coefficients):
            row = np.zeros(n + 1)
            for name, value in coefficients.items():
                row[-1 if name == "dip" else int(name[1:])] += value
            left.append(row)
            right.append(bound)

        for i in range(n):
            at_most(lower[i], **{f"u{i}": 1, "dip": -1})
            at_most(-upper[i], **{f"u{i}": -1, "dip": -1})
        for i in range(n - 1):
            at_most(0, **{f"u{i}": 1, f"u{i + 1}": -1})
        for i in set(range(1, n - 1)) - {mode}:
            before, after = points[i] - points[i - 1], points[i + 1] - points[i]
            sign = 1 if i < mode else -1
            at_most(
                0,
                **{f"u{i}": sign * (1 / before + 1 / after), f"u{i - 1}": -sign / before, f"u{i + 1}": -sign / after},
            )
        found = linprog([0] * n + [1], A_ub=np.array(left), b_ub=right, bounds=[(0, 1)] * n + [(0, None)])
        best = min(best, found.fun)
    return best
