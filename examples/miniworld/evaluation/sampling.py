"""Sampled identities: consistent over seeds, unlike anybody registered, and as varied as the trained ones."""

from __future__ import annotations

import numpy as np

from examples.miniworld import identities as people
from examples.miniworld.evaluation.assets import Assets, Scope, consistencies
from examples.miniworld.evaluation.report import Row, exact
from examples.miniworld.world import ATTRIBUTES, CONTINUOUS
from w2w_registry.space import intervals
from w2w_registry.space import sampling as s


def run(assets: Assets, scope: Scope) -> list[Row]:
    """The suite's table: the default distribution first, the other two for comparison."""
    seeds = list(range(1, max(2, scope.seeds) + 1))
    metric = assets.space.metric
    assert metric is not None
    known = assets.coordinates[: people.FIT]
    weights = np.asarray(metric.weights)
    count = len(assets.again)
    genuine = metric.score(known[:count], assets.space.project(assets.again))
    # Nine of ten retrained LoRAs lie nearer to their own identity than this.
    apart = float(1.0 - np.quantile(genuine, 0.1))
    everybody = assets.readings(assets.theta[: scope.samples], seeds, "sample-trained")
    trained = consistencies(everybody)
    spread = everybody.mean(1).std(0)
    rows = [Row("sampling", "consistency over seeds of trained identities", intervals.mean(trained))]
    for shape in ("unmixed", "full", "independent"):
        found = s.sample(
            s.fit_population(known, shape),
            scope.samples,
            known,
            seed=5,
            min_distance=apart if shape == "unmixed" else 0.0,
            metric_weights=weights,
        )
        readings = assets.readings(assets.space.reconstruct(found.points.astype(np.float32)), seeds, f"sample-{shape}")
        own = consistencies(readings)
        ratio = intervals.ratio(own, trained)
        varied = readings.mean(1).std(0) / spread
        first = shape == "unmixed"
        rows += [
            Row("sampling", f"{shape}: consistency over seeds ÷ that of trained ones", ratio, 0.95 if first else None),
            Row(
                "sampling",
                f"{shape}: spread of attributes ÷ that of trained ones, mean",
                exact(varied.mean(), scope.samples),
                0.8 if first else None,
                note=f"least: {ATTRIBUTES[int(varied.argmin())]} {varied.min():.2f}",
            ),
            Row(
                "sampling",
                f"{shape}: yes/no readings that are neither (0.2 to 0.8)",
                exact(_undecided(readings), scope.samples),
                note=f"trained ones {_undecided(everybody):.3f}",
            ),
            Row(
                "sampling",
                f"{shape}: least distance to a registered identity",
                exact(found.distance.min(), scope.samples),
                apart if first else None,
                note=f"{found.refused} draws refused" if first else "",
            ),
        ]
    return rows


def _undecided(readings: np.ndarray) -> float:
    yes = readings.mean(1)[:, len(CONTINUOUS) :]
    return float(((yes > 0.2) & (yes < 0.8)).mean())
