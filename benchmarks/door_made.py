"""Does the door notice models that were made of somebody's training outside the registry? ``benchmarks.door_rates``.

Per fold, a space is fitted on people of the mini world, a hundred of whom refuse. Held against them, by references of
coordinates, by what is drawn, by both and by ``space.ordinary``, as ``services.consent.door`` does: second trainings of
who refused, with noise or mixed with a stranger; strangers' trainings; and strangers disturbed in the same ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks.door_behaviour import KEY, REFUSED, Array, Judging, Rate, row_of
from examples.miniworld.fingerprints import PROMPT
from examples.miniworld.unpack import DATA, Loras, load_loras
from w2w_registry.consent.references import ESTIMATED, bits_of, cosines, threshold
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.crossfit import cross_fit, inner_products
from w2w_registry.space.fit import fit_space
from w2w_registry.space.metrics import default_metric
from w2w_registry.space.ordinary import Ordinary, energies
from w2w_registry.space.refusal import (
    ALARM,
    HOLD,
    HOLD_MADE,
    Comparison,
    Nearer,
    refusal_model,
    standing_out,
)
from w2w_registry.space.start import canonical_rows, common_start
from w2w_registry.space.verdict import VerdictModel

TWICE, ALSO, FIRST = 224, 300, 20
HONEST = "stranger's training"
TRIED = ("second training with noise .5", "second training, .7 of it mixed")
"""Of whom more must not pass than ``PASS``."""
PASS = 0.02
Thetas = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass
class Found:
    """Of newcomers of one kind: whose weights are no training's; who is refused, and who is held."""

    unusual: list[NDArray[np.bool_]] = field(default_factory=list)
    refused: list[NDArray[np.bool_]] = field(default_factory=list)
    held: list[NDArray[np.bool_]] = field(default_factory=list)

    def rate(self, what: str) -> Rate:
        refused, held = np.concatenate(self.refused), np.concatenate(self.held)
        return Rate(what, int(refused.sum()), int((held & ~refused).sum()), len(refused))


class World:
    """The mini world's LoRAs and its base model, opened once."""

    @cached_property
    def loras(self) -> Loras:
        return load_loras()

    def prints(self, thetas: Thetas) -> Array:
        """Fingerprints (n, D) of LoRAs (n, D')."""
        from w2w_registry.diffusion.fingerprint import of_thetas

        return of_thetas(self._model, self.loras.layout, thetas, PROMPT).astype(np.float64)

    @cached_property
    def _model(self):  # type: ignore[no-untyped-def]
        import torch

        from w2w_registry.diffusion.pipeline import load_model

        torch.set_num_threads(1)
        return load_model(DATA / "pipeline", device="cpu")

    @cached_property
    def shipped(self) -> Array:
        """Of everybody's first training."""
        return self.prints(self.loras.theta)


class Fold:
    """A registry in which a hundred of those who were trained twice refuse, and strangers it has not met."""

    def __init__(self, world: World, seed: int, judging: Judging) -> None:
        loras, rng = world.loras, np.random.default_rng(seed)
        others = rng.permutation(np.arange(TWICE, len(loras.theta)))
        twice = np.arange(TWICE)
        self.world, self.rng = world, rng
        self.refused = rng.permutation(twice[judging(twice)])[:REFUSED]
        fitted, out = np.concatenate([twice, others[:ALSO]]), others[ALSO:]
        self.strangers, self.registered = out[judging(out)], np.setdiff1d(fitted, self.refused)
        self.start = common_start(loras.theta[fitted], loras.layout).values
        self.theta, self.again = (
            canonical_rows(rows, loras.layout, self.start) for rows in (loras.theta, loras.retrained)
        )
        self.spread = self.theta[fitted].std(axis=0)
        self.space: WeightSpace = fit_space(self.theta[fitted], loras.layout, base_model="benchmark", start=self.start)
        self.metric = default_metric(self.space.component_std)
        gram = inner_products(self.theta[fitted], self.space)
        self.normal: Ordinary = cross_fit(gram, self.space.k, default_metric).ordinary
        self.crowd = np.concatenate([world.shipped[self.registered], world.shipped[self.refused]])
        self.model: VerdictModel = refusal_model(self.crowd)
        self.kept = self._bits(self.theta[self.refused])
        self.units = self.metric.unit(self.space.project(self.theta[self.registered]))
        everybody = np.concatenate([self.units, self.metric.unit(self.space.project(self.theta[self.refused]))])
        with_registered = everybody @ self.units.T
        with_registered[np.arange(len(self.units)), np.arange(len(self.units))] = np.nan
        self.among = standing_out(everybody @ everybody.T, with_registered)
        registered = self._bits(self.theta[self.registered])
        self.limits = np.array([threshold(cosines(one, registered)) for one in self.kept])

    def _bits(self, theta: Thetas) -> NDArray[np.bool_]:
        return bits_of(self.metric.unit(self.space.project(theta)), KEY, "benchmark")

    def noise(self, count: int, share: float, components: int | None = None) -> Thetas:
        """As people vary in the space, so much of it, in the first components or in all."""
        some = self.space.k if components is None else components
        points = np.zeros((count, self.space.k))
        points[:, :some] = share * self.rng.normal(size=(count, some)) * self.space.component_std[:some]
        return self.space.reconstruct(points) - self.space.mean

    def newcomers(self) -> Iterator[tuple[str, Thetas, bool]]:
        """What is tried: its name, θ (n, D), and whether row n is of the n-th who refused."""
        again, out = self.again[self.refused], self.theta[self.strangers]
        other = out[self.rng.integers(len(out), size=REFUSED)]
        white = self.spread * self.rng.normal(size=again.shape)
        yield HONEST, out, False
        yield "stranger's training with noise .5", out + self.noise(len(out), 0.5), False
        yield "stranger's training, .7 of it mixed", 0.7 * out + 0.3 * self.rng.permutation(out), False
        yield "second training", again, True
        for share in (0.25, 0.5, 0.75):
            yield f"second training with noise {share:g}".replace("0.", "."), again + self.noise(REFUSED, share), True
        yield "second training with noise 1 on the factors", again + white, True
        yield f"second training with noise .5 on {FIRST} components", again + self.noise(REFUSED, 0.5, FIRST), True
        for share in (0.7, 0.5):
            mixed = share * again + (1 - share) * other
            yield f"second training, {share:g} of it mixed".replace("0.", "."), mixed, True

    def looked(self, theta: Thetas, own: bool, found: Found) -> None:
        """Add what becomes of newcomers (n, D)."""
        theta = theta.astype(np.float32)
        points, residuals = self.space.placed(list(theta))
        outside = (points.astype(np.float64) ** 2).sum(1) * residuals**2 / np.maximum(1 - residuals**2, 1e-9)
        unusual = self.normal.unusual(energies(points, self.space.component_std, outside))
        comparison = Comparison(self.model, self.world.prints(theta), self.crowd, among=REFUSED)
        rows, theirs = self.crowd[len(self.registered) :], len(self.registered) + np.arange(REFUSED)
        kept = np.stack([cosines(one, self.kept) for one in self._bits(theta)])
        nearer = Nearer(standing_out(kept, self.metric.unit(points) @ self.units.T, ESTIMATED), self.among)
        drawn, made = comparison.with_known(rows, theirs), comparison.with_made(rows, theirs, nearer)
        weights = kept >= self.limits

        def of(table: NDArray[np.generic]) -> NDArray[np.bool_]:
            return np.asarray(table.diagonal() if own else table.any(axis=1))

        found.unusual.append(unusual)
        found.refused.append(of((drawn <= ALARM) | weights))
        found.held.append(of((drawn <= HOLD) | (made <= np.where(unusual, HOLD_MADE, HOLD)[:, None])))


def table(count: int, judging: Judging) -> tuple[str, bool]:
    """The rates of ``count`` folds, and whether they fall short."""
    world, found = World(), dict[str, Found]()
    for seed in range(count):
        fold = Fold(world, seed, judging)
        for what, theta, own in fold.newcomers():
            fold.looked(theta, own, found.setdefault(what, Found()))
    lines = [
        "| made outside, a hundred refused, 424 registered | of | no training's weights | refused, 95% | held, 95% "
        "| let pass, 95% |\n| --- | --- | --- | --- | --- | --- |"
    ]
    rates = {what: one.rate(what) for what, one in found.items()}
    for what, rate in rates.items():
        unusual = np.concatenate(found[what].unusual).mean()
        lines.append(f"| {what} | {rate.tries:,} | {unusual:.3f} | {row_of(rate)} |")
    # How often a stranger is refused says ``door_behaviour.by_anybody``: the same hundred refuse in every fold here.
    short = rates[HONEST].held > 0.02 * rates[HONEST].tries
    return "\n".join(lines), short or any(rates[what].passed > PASS * rates[what].tries for what in TRIED)
