"""How often the door refuses a stranger by what it draws, and misses somebody who refused: ``benchmarks.door_rates``'s
second half.

Held against the fingerprints of a hundred who refused, as they stand in the catalog and as they are kept of somebody
erased (signs of projections under a key): strangers, second trainings, and trainings of other kinds. The population
that says how near strangers come is registered people who are neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases.verdict import NAMES, Data
from w2w_registry.consent.references import bits_of, cosines
from w2w_registry.space.intervals import share
from w2w_registry.space.refusal import ALARM, CROWD, Comparison, Kept, expected, refusal_model
from w2w_registry.space.verdict import Repeats, VerdictModel, learn

KEY = bytes(32)
REFUSED = 100
Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``tries`` were refused; ``worst``: the largest share of one fold."""

    what: str
    hits: int
    tries: int
    worst: float = 0.0


@dataclass(frozen=True, eq=False)
class Fold:
    """Who refuses (gallery rows), the registered, people nobody knows (fingerprints), the people learned from."""

    refused: Rows
    registered: Rows
    strangers: Array
    taught: Rows


def folds(data: Data, count: int, taught: int, registered: int) -> Iterator[Fold]:
    """People who were trained again or otherwise refuse; of the others ``taught`` teach, in turn."""
    known = np.unique(np.concatenate([data.of[kind] for kind in data.of]))
    for seed in range(count):
        rng = np.random.default_rng(seed)
        order = rng.permutation(known)
        refused, rest = order[:REFUSED], order[REFUSED:]
        teachers = rest[:taught]
        pool = rng.permutation(np.setdiff1d(np.arange(len(data.gallery)), np.concatenate([refused, teachers])))
        most = min(registered, int(0.75 * len(pool)))
        out = np.concatenate([data.gallery[pool[most:]], data.strangers])
        yield Fold(refused, np.concatenate([pool[:most], teachers]), out, teachers)


def comparison_model(data: Data, fold: Fold) -> VerdictModel:
    """What the door would compare by: learned from the teachers' repeats, where there are any."""
    rows = data.gallery[fold.registered]
    place = {int(who): row for row, who in enumerate(fold.registered)}
    given = []
    for kind, prints in data.asked.items() if len(fold.taught) else ():
        mine = np.isin(data.of[kind], fold.taught)
        given.append(Repeats(kind, prints[mine], np.array([place[int(w)] for w in data.of[kind][mine]], np.int64)))
    crowd = np.sort(np.random.default_rng(0).permutation(len(rows))[:CROWD])
    return refusal_model(rows[crowd], learn(rows, given) if given else None)


def alarms(model: VerdictModel, queries: Array, fold: Fold, data: Data, *, kept: bool) -> Array:
    """(q, REFUSED): the chance of a false alarm, by full fingerprints or by what is ``kept`` of the erased."""
    found = []
    crowd = data.gallery[fold.registered][:CROWD]
    refused = data.gallery[fold.refused]
    for part in np.array_split(queries, max(1, len(queries) // 1000)):
        comparison = Comparison(model, part, crowd)
        found.append(_with_kept(model, comparison, refused) if kept else comparison.with_known(refused))
    return np.concatenate(found)


def _with_kept(model: VerdictModel, comparison: Comparison, refused: Array) -> Array:
    columns = []
    asked = [_signs(view, number) for number, view in enumerate(comparison.asked)]
    for one in refused:
        views = []
        for number, (mine, view) in enumerate(zip(asked, expected(model, one), strict=True)):
            theirs = _signs(view[None], number)[0]
            views.append(Kept(float(np.linalg.norm(view)), np.array(cosines(theirs, mine))))
        columns.append(comparison.with_kept(views))
    return np.stack(columns, axis=1)


def _signs(vectors: Array, view: int) -> NDArray[np.bool_]:
    return np.concatenate([bits_of(vectors, KEY, f"benchmark {view} {half}") for half in range(2)], axis=1)


def rates(
    data: Data, *, taught: int, registered: int, count: int, kept: bool = False, strangers: bool = True
) -> list[Rate]:
    """The rates of ``count`` folds: strangers per add, and each kind of training."""
    total: dict[str, list[tuple[int, int]]] = {}
    for fold in folds(data, count, taught, registered):
        model = comparison_model(data, fold)
        if strangers:
            refused = alarms(model, fold.strangers, fold, data, kept=kept) <= ALARM
            total.setdefault("stranger (per add)", []).append((int(refused.any(1).sum()), len(refused)))
        at = {int(who): column for column, who in enumerate(fold.refused)}
        for kind, prints in data.asked.items():
            mine = np.flatnonzero(np.isin(data.of[kind], fold.refused))
            if not len(mine):
                continue
            found = alarms(model, prints[mine], fold, data, kept=kept) <= ALARM
            own = found[np.arange(len(mine)), [at[int(data.of[kind][m])] for m in mine]]
            total.setdefault(kind, []).append((int(own.sum()), len(own)))
    return [
        Rate(what, sum(h for h, _ in pairs), sum(n for _, n in pairs), max(h / n for h, n in pairs))
        for what, pairs in total.items()
    ]


def table(data: Data, name: str, *, registered: int, count: int) -> tuple[str, list[Rate]]:
    """The rates as a table, with and without repeats to learn from, and by what is kept of the erased; and those
    without any repeats, which are what a new registry has."""
    lines = [f"| {name}: held against a hundred who refused | refused | of | share, 95% |", "| --- | --- | --- | --- |"]
    plain: list[Rate] = []
    for taught, kept, said in (
        (0, False, "nothing learned"),
        (0, True, "erased, nothing learned"),
        (64, False, "64 people's repeats learned"),
    ):
        found = rates(data, taught=taught, registered=registered, count=count, kept=kept, strangers=not kept)
        plain = found if not taught and not kept else plain
        for rate in found:
            spread = share(np.arange(rate.tries) < rate.hits)
            told = f"{spread.value:.4f} [{spread.low:.4f}, {spread.high:.4f}]"
            lines.append(f"| {NAMES.get(rate.what, rate.what)}, {said} | {rate.hits} | {rate.tries} | {told} |")
    return "\n".join(lines), plain
