"""Edits along directions: does the attribute flip, what else moves, is strength monotone; against prompting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from examples.miniworld import identities as people
from examples.miniworld.evaluation.assets import RECIPE, Array, Assets, Scope, array_key
from examples.miniworld.evaluation.report import Row, exact
from examples.miniworld.readers import SPREAD
from examples.miniworld.world import ATTRIBUTES, BINARY
from w2w_registry.diffusion.generate import Recipe, Shot
from w2w_registry.space import directions as d
from w2w_registry.space import intervals

MARGINS: Final = (0.0, 0.5, 1.0, 2.0)
TRIED_ON: Final = range(12)
"""Identities of the fit split that say how far beyond the average "yes" an edit has to aim."""
STRENGTHS: Final = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


def fitted(assets: Assets) -> dict[str, d.Direction]:
    """A direction per attribute, on the labels of the fit split."""
    points, std = assets.coordinates[: people.FIT], assets.space.component_std
    return {name: d.fit_reader(name, points, assets.truth[: people.FIT, i], std) for i, name in enumerate(ATTRIBUTES)}


def moves(
    assets: Assets,
    all_: dict[str, d.Direction],
    attribute: str,
    points: Array,
    on: Sequence[bool],
    margin: float,
) -> Array:
    """The edit (n, k) of each point that turns ``attribute`` on or off and keeps every other labelled attribute."""
    direction, std = all_[attribute], assets.space.component_std
    keep = [other for name, other in all_.items() if name != attribute]
    out = []
    for point, yes in zip(points, on, strict=True):
        amount = d.amount_for(direction, point, d.target_reading(direction, yes, margin))
        out.append(d.solve_edit([(direction, amount)], keep, std))
    return np.stack(out).astype(np.float32)


def margin_for(assets: Assets, all_: dict[str, d.Direction], attribute: str) -> float:
    """The least margin at which the drawn attribute flips for nearly everybody tried, none of them held out."""
    i, tried = ATTRIBUTES.index(attribute), list(TRIED_ON)
    on = [bool(v < 0.5) for v in assets.truth[tried, i]]
    points = assets.coordinates[tried]
    for margin in MARGINS[:-1]:
        thetas = assets.space.reconstruct(points + moves(assets, all_, attribute, points, on, margin))
        if flipped(assets.readings(thetas, (1,), f"margin-{attribute}"), i, on).mean() > 0.9:
            return margin
    return MARGINS[-1]


def prompted(assets: Assets, thetas: Array, word: str, on: Sequence[bool], seeds: Sequence[int]) -> Array:
    """Readings (n, seeds, attributes) when the unedited identity is asked for in words."""

    def compute() -> Array:
        found = np.zeros((len(thetas), len(seeds), len(ATTRIBUTES)), np.float32)
        for yes in (True, False):
            rows = [i for i, o in enumerate(on) if o == yes]
            if not rows:
                continue
            asked: Recipe = (
                replace(RECIPE, prompt=f"{RECIPE.prompt} with {word}") if yes else replace(RECIPE, negative=word)
            )
            shots = [Shot(thetas[i], seed) for i in rows for seed in seeds]
            pictures = assets.draw(shots, asked)
            found[rows] = assets.readers.read(pictures).reshape(len(rows), len(seeds), -1)
        return found

    key = [array_key(thetas), word, [bool(o) for o in on], list(seeds), RECIPE.to_json()]
    return assets.keep("prompted", key, compute)


def moved(before: Array, after: Array, attribute: int) -> np.ndarray:
    """How far the other attributes go, in their spreads (n,): per picture of one seed, averaged."""
    change = np.abs(after - before) / SPREAD
    return np.asarray(np.delete(change, attribute, axis=-1).mean((1, 2)), np.float64)


def drifted(before: Array, after: Array, attribute: int) -> np.ndarray:
    """As ``moved``, of the readings averaged over seeds first (n,)."""
    change = np.abs(after.mean(1) - before.mean(1)) / SPREAD
    return np.asarray(np.delete(change, attribute, axis=-1).mean(1), np.float64)


def run(assets: Assets, scope: Scope) -> list[Row]:
    """The suite's table, a few rows per yes/no attribute."""
    held = [people.FIT + i for i in range(scope.heldout)]
    seeds = list(range(1, max(scope.seeds, 2) + 1))
    points = assets.coordinates[held]
    thetas = assets.space.reconstruct(points)
    before = assets.readings(thetas, seeds, "edit-before")
    every = fitted(assets)
    rows: list[Row] = []
    for binary in BINARY:
        i, name = ATTRIBUTES.index(binary.name), binary.name
        on = [bool(v < 0.5) for v in assets.truth[held, i]]
        margin = margin_for(assets, every, name)
        step = moves(assets, every, name, points, on, margin)
        after = assets.readings(assets.space.reconstruct(points + step), seeds, f"edit-{name}")
        words = prompted(assets, thetas, binary.word, on, seeds)
        flips = flipped(after, i, on)
        rows += [
            Row("edits", f"{name}: flips", intervals.mean(flips), 0.9, note=f"margin {margin:g}"),
            Row("edits", f"{name}: flips by prompting", intervals.mean(flipped(words, i, on))),
            Row(
                "edits",
                f"{name}: others' movement ÷ that of prompting",
                intervals.ratio(moved(before, after, i), moved(before, words, i)),
                0.5,
                above=False,
            ),
            Row(
                "edits",
                f"{name}: others' movement ÷ that of prompting, seeds averaged first",
                intervals.ratio(drifted(before, after, i), drifted(before, words, i)),
            ),
        ]
        rows.append(_monotone(assets, every[name], every, name, points[: max(4, scope.heldout // 4)], seeds[:4]))
    return rows


def flipped(after: Array, attribute: int, on: Sequence[bool]) -> np.ndarray:
    """Whether the reading averaged over seeds lies on the asked side (n,)."""
    return np.asarray((after[..., attribute].mean(1) > 0.5) == np.asarray(on), np.float64)


def _monotone(
    assets: Assets, direction: d.Direction, every: dict[str, d.Direction], name: str, points: Array, seeds: list[int]
) -> Row:
    """Mean reading over a sweep from less than now to beyond the other side: share of steps that do not go back."""
    i = ATTRIBUTES.index(name)
    keep = [other for key, other in every.items() if key != name]
    reach = (direction.levels[1] - direction.levels[0]) / direction.spread
    step = d.solve_edit([(direction, reach)], keep, assets.space.component_std).astype(np.float32)
    sweep = np.concatenate([points + s * step for s in STRENGTHS])
    readings = assets.readings(assets.space.reconstruct(sweep), seeds, f"sweep-{name}")
    curve = readings[..., i].mean(1).reshape(len(STRENGTHS), len(points)).mean(1)
    forward = np.diff(curve) > -0.01
    shape = " ".join(f"{v:.2f}" for v in curve)
    return Row("edits", f"{name}: share of sweep steps forward", exact(forward.mean(), len(points)), 1.0, note=shape)
