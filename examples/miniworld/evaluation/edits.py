"""Edits along directions: does the attribute flip, what else moves, is strength monotone; against prompting.

An edit is measured twice: injected into pictures of the identity where it acts (``generate --edit … --local``), and as
the new identity that ``edit`` makes.  Prompting is measured twice as well: at the guidance that all pictures here are
drawn with, where it leaves many people as they were, and at the guidance that flipped nearly everybody it was tried on.
Movement is always measured from the same identity's picture of the same seed and guidance, without edit or word.
"""

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
from w2w_registry.diffusion.generate import Shot
from w2w_registry.space import directions as d
from w2w_registry.space import intervals
from w2w_registry.space.intervals import Estimate

MARGINS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
GUIDANCES: Final = (2.0, 3.0, 4.5, 6.5, 9.0)
LOCAL: Final = 0.5
TRIED_ON: Final = range(12)
"""Identities of the fit split that say how far beyond the average "yes" an edit has to aim, and how much guidance words
need."""
ENOUGH: Final = 0.9
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


def edited(
    assets: Assets, points: Array, step: Array, seeds: Sequence[int], name: str, *, local: float | None
) -> Array:
    """Readings (n, seeds, attributes) after an edit: in pictures of the identity, or (``local`` None) of a new one."""
    after = assets.space.reconstruct((points + step).astype(np.float32))
    if local is None:
        return assets.readings(after, seeds, name)
    recipe = replace(RECIPE, local=local)
    return assets.readings(assets.space.reconstruct(points), seeds, name, recipe, after)


def margin_for(assets: Assets, all_: dict[str, d.Direction], attribute: str, local: float | None) -> float:
    """The least margin at which the drawn attribute flips for nearly everybody tried, none of them held out."""
    i, tried = ATTRIBUTES.index(attribute), list(TRIED_ON)
    on = [bool(v < 0.5) for v in assets.truth[tried, i]]
    points = assets.coordinates[tried]
    for margin in MARGINS[:-1]:
        step = moves(assets, all_, attribute, points, on, margin)
        after = edited(assets, points, step, (1, 2), f"margin-{attribute}", local=local)
        if flipped(after, i, on).mean() > ENOUGH:
            return margin
    return MARGINS[-1]


def prompted(
    assets: Assets, thetas: Array, word: str, on: Sequence[bool], seeds: Sequence[int], guidance: float
) -> Array:
    """Readings (n, seeds, attributes) when the unedited identity is asked for in words."""
    plain = replace(RECIPE, guidance=guidance)

    def compute() -> Array:
        found = np.zeros((len(thetas), len(seeds), len(ATTRIBUTES)), np.float32)
        for yes in (True, False):
            rows = [i for i, o in enumerate(on) if o == yes]
            if not rows:
                continue
            asked = replace(plain, prompt=f"{plain.prompt} with {word}") if yes else replace(plain, negative=word)
            shots = [Shot(thetas[i], seed) for i in rows for seed in seeds]
            pictures = assets.draw(shots, asked)
            found[rows] = assets.readers.read(pictures).reshape(len(rows), len(seeds), -1)
        return found

    key = [array_key(thetas), word, [bool(o) for o in on], list(seeds), plain.to_json()]
    return assets.keep("prompted", key, compute)


def guidance_for(assets: Assets, attribute: str, word: str) -> float:
    """The least guidance at which words flip nearly everybody tried (the most there is, if they never do)."""
    i, tried = ATTRIBUTES.index(attribute), list(TRIED_ON)
    on = [bool(v < 0.5) for v in assets.truth[tried, i]]
    thetas = assets.space.reconstruct(assets.coordinates[tried])
    for guidance in GUIDANCES[:-1]:
        if flipped(prompted(assets, thetas, word, on, (1, 2), guidance), i, on).mean() > ENOUGH:
            return guidance
    return GUIDANCES[-1]


def moved(before: Array, after: Array, attribute: int) -> np.ndarray:
    """How far the other attributes go, in their spreads (n,): per picture of one seed, averaged."""
    change = np.abs(after - before) / SPREAD
    return np.asarray(np.delete(change, attribute, axis=-1).mean((1, 2)), np.float64)


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
        margin = margin_for(assets, every, name, LOCAL)
        step = moves(assets, every, name, points, on, margin)
        after = edited(assets, points, step, seeds, f"edit-{name}", local=LOCAL)
        weak = prompted(assets, thetas, binary.word, on, seeds, GUIDANCES[0])
        guidance = guidance_for(assets, name, binary.word)
        words = prompted(assets, thetas, binary.word, on, seeds, guidance)
        unasked = assets.readings(thetas, seeds, "edit-before", replace(RECIPE, guidance=guidance))
        own_margin = margin_for(assets, every, name, None)
        own_step = moves(assets, every, name, points, on, own_margin)
        new = edited(assets, points, own_step, seeds, f"edit-{name}", local=None)

        def row(
            what: str, estimate: Estimate, target: float | None = None, *, label: str = name, note: str = ""
        ) -> Row:
            return Row("edits", f"{label}: {what}", estimate, target, above=target != 0.5, note=note)

        def share(readings: Array, index: int = i, asked: Sequence[bool] = on) -> Estimate:
            return intervals.mean(flipped(readings, index, asked))

        ours, theirs = moved(before, after, i), moved(unasked, words, i)
        rows += [
            row("flips", share(after), 0.9, note=f"margin {margin:g}"),
            row("flips by words", share(words), note=f"guidance {guidance:g}"),
            row("others' movement", intervals.mean(ours)),
            row("others' movement ÷ that of words at that guidance", intervals.ratio(ours, theirs), 0.5),
            row("flips by words at guidance 2", share(weak)),
            row("others' movement ÷ that of words at guidance 2", intervals.ratio(ours, moved(before, weak, i)), 0.5),
            row("flips as a new identity", share(new), 0.9, note=f"margin {own_margin:g}"),
            row("others' movement as a new identity ÷ words", intervals.ratio(moved(before, new, i), theirs)),
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
