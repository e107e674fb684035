"""Edits along directions: does the attribute flip, what else moves, is strength monotone; against prompting.

An edit is measured twice: injected into pictures of the identity where it acts (``generate --edit … --local``), and as
the new identity that ``edit`` makes.  How far it aims is settled on people none of whom is held out.  Prompting is
measured three times, always of the held-out people: at the least guidance at which words, too, flip nearly everybody;
harder to beat, with the least that does it for adding and for removing; and at the guidance of all pictures here, where
words leave many people as they were.  Movement is always measured from the same identity's picture of the same seed and
guidance, without edit or word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from w2w_registry.space.direction_fit import fit_reader
from w2w_registry.space.intervals import Estimate

MARGINS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
GUIDANCES: Final = (2.0, 3.0, 4.5, 6.5, 9.0)
LOCALS: Final = (0.5, 0.3)
"""How much of the unedited picture to keep, the most first: small things like earrings need the second."""
TRIED_ON: Final = 24
"""Identities of the fit split, by their second LoRAs (which no direction was fitted on), that say how far beyond the
average "yes" or "no" an edit has to aim."""
TRIED_SEEDS: Final = (101, 102, 103)
ENOUGH: Final = 0.9
"""Share of people that a setting has to flip. Edits of new identities, which have no picture to stay near, aim so far
that all they are tried on flip."""
STRENGTHS: Final = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
BothWays = tuple[float, float]
"""A setting for adding an attribute and one for removing it."""


def fitted(assets: Assets) -> dict[str, d.Direction]:
    """A direction per attribute, on the labels of the fit split."""
    points, std = assets.coordinates[: people.FIT], assets.space.component_std
    return {name: fit_reader(name, points, assets.truth[: people.FIT, i], std) for i, name in enumerate(ATTRIBUTES)}


def moves(
    assets: Assets,
    all_: dict[str, d.Direction],
    attribute: str,
    points: Array,
    on: Sequence[bool],
    margins: BothWays,
) -> Array:
    """The edit (n, k) of each point that turns ``attribute`` on or off and keeps every other labelled attribute."""
    direction, std = all_[attribute], assets.space.component_std
    keep = [other for name, other in all_.items() if name != attribute]
    out = []
    for point, yes in zip(points, on, strict=True):
        target = d.target_reading(direction, yes, margins[0] if yes else margins[1])
        out.append(d.solve_edit([(direction, d.amount_for(direction, point, target))], keep, std))
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


def least(
    options: Sequence[float], on: Sequence[bool], flips: Callable[[float], np.ndarray], share: float = ENOUGH
) -> tuple[float, BothWays]:
    """The least of ``options`` that flips a ``share`` of those tried, and the same for adding and for removing alone;
    the last one where none does.  ``flips(option)`` says who flips (n,)."""
    rows = {"all": np.ones(len(on), bool), "on": np.asarray(on), "off": ~np.asarray(on)}
    found: dict[str, float] = {}
    for option in options[:-1]:
        did = flips(option)
        for name in rows.keys() - found.keys():
            if rows[name].any() and did[rows[name]].mean() >= share:
                found[name] = option
        if len(found) == len(rows):
            break
    whole, on_, off = (found.get(name, options[-1]) for name in rows)
    return whole, (on_, off)


def tried(assets: Assets, attribute: str) -> tuple[Array, list[bool]]:
    """Coordinates (n, k) of the people settings are chosen on, and whether the attribute is to be added to each."""
    points = assets.space.project(assets.again[:TRIED_ON])
    return points, [bool(v < 0.5) for v in assets.truth[:TRIED_ON, ATTRIBUTES.index(attribute)]]


def margins_for(assets: Assets, all_: dict[str, d.Direction], attribute: str, local: float | None) -> BothWays:
    """How far beyond the average "yes" and "no" the drawn attribute flips for (nearly) everybody tried; infinite
    where it does not."""
    points, on = tried(assets, attribute)

    def flips(margin: float) -> np.ndarray:
        step = moves(assets, all_, attribute, points, on, (margin, margin))
        after = edited(assets, points, step, TRIED_SEEDS, f"margin-{attribute}", local=local)
        return flipped(after, ATTRIBUTES.index(attribute), on)

    return least((*MARGINS, np.inf), on, flips, 1.0 if local is None else ENOUGH)[1]


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


def reach_for(
    assets: Assets, all_: dict[str, d.Direction], attribute: str, locals_: Sequence[float | None]
) -> tuple[float | None, BothWays]:
    """The first of ``locals_`` with which the attribute can be made to flip (or the last of them), and the margins."""
    for local in locals_:
        margins = margins_for(assets, all_, attribute, local)
        if max(margins) <= MARGINS[-1]:
            break
    return local, (min(margins[0], MARGINS[-1]), min(margins[1], MARGINS[-1]))


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
        rows += _attribute(assets, every, binary.name, binary.word, held, seeds, before)
        shown = points[: max(4, scope.heldout // 4)]
        rows.append(_monotone(assets, every[binary.name], every, binary.name, shown, seeds[:4]))
    return rows


def _attribute(
    assets: Assets,
    every: dict[str, d.Direction],
    name: str,
    word: str,
    held: Sequence[int],
    seeds: Sequence[int],
    before: Array,
) -> list[Row]:
    """Flips and movement of one yes/no attribute: edits in pictures, edits as new identities, words."""
    i = ATTRIBUTES.index(name)
    on = [bool(v < 0.5) for v in assets.truth[list(held), i]]
    points = assets.coordinates[list(held)]
    thetas = assets.space.reconstruct(points)

    def after_edit(locals_: Sequence[float | None]) -> tuple[Array, str]:
        share_kept, (adding, removing) = reach_for(assets, every, name, locals_)
        step = moves(assets, every, name, points, on, (adding, removing))
        how = "" if share_kept is None else f"local {share_kept:g}, "
        after = edited(assets, points, step, seeds, f"edit-{name}", local=share_kept)
        return after, f"{how}margins {adding:g} on, {removing:g} off"

    def in_words(guidance: float) -> tuple[Array, Array]:
        plain = assets.readings(thetas, seeds, "edit-before", replace(RECIPE, guidance=guidance))
        return plain, prompted(assets, thetas, word, on, seeds, guidance)

    local, how_local = after_edit(LOCALS)
    new, how_new = after_edit([None])
    guidance, (adding, removing) = least(GUIDANCES, on, lambda g: flipped(in_words(g)[1], i, on))
    plain, words = in_words(guidance)
    added, removed, weak = in_words(adding), in_words(removing), in_words(GUIDANCES[0])
    # Every person by the guidance of the way they are to go.
    way = np.asarray(on)[:, None, None]
    plain_each, words_each = (np.where(way, add, remove) for add, remove in zip(added, removed, strict=True))

    def row(what: str, estimate: Estimate, target: float | None = None, note: str = "") -> Row:
        return Row("edits", f"{name}: {what}", estimate, target, above=target != 0.5, note=note)

    def share(readings: Array) -> Estimate:
        return intervals.mean(flipped(readings, i, on))

    ours, theirs, each = moved(before, local, i), moved(plain, words, i), moved(plain_each, words_each, i)
    return [
        row("flips", share(local), 0.9, how_local),
        row("flips by words", share(words), note=f"guidance {guidance:g}"),
        row("flips by words each way", share(words_each), note=f"guidance {adding:g} on, {removing:g} off"),
        row("others' movement", intervals.mean(ours)),
        row("others' movement ÷ that of words", intervals.ratio(ours, theirs), 0.5),
        row("others' movement ÷ that of words each way", intervals.ratio(ours, each), 0.5),
        row("flips by words at guidance 2", share(weak[1])),
        row("others' movement ÷ that of words at guidance 2", intervals.ratio(ours, moved(*weak, i)), 0.5),
        row("flips as a new identity", share(new), 0.9, how_new),
        row("others' movement as a new identity ÷ words", intervals.ratio(moved(before, new, i), theirs)),
    ]


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
