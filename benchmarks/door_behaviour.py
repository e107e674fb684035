"""How often the door refuses or holds a stranger by what it draws, and lets somebody who refused pass:
``benchmarks.door_rates``'s second half.

Held against the fingerprints of a hundred who refused, as they stand in the catalog and as they are kept of somebody
erased (signs of projections under a key): strangers, second trainings, and trainings of other kinds. The population
that says how near strangers come is registered people who are neither and, where there is room, those who refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases.verdict import NAMES, Data
from examples.miniworld.fingerprints import UNFINISHED
from w2w_registry.consent.references import bits_of, likeliest
from w2w_registry.space.intervals import share
from w2w_registry.space.refusal import ALARM, CROWD, HOLD, Comparison, few_model, refusal_model
from w2w_registry.space.verdict import LEAST_GALLERY, Repeats, VerdictModel, learn

KEY = bytes(32)
SETS = tuple(f"benchmark {n}" for n in range(8))
REFUSED = 100
STRANGER = "stranger, per add"
OTHERWISE = "stranger trained in another way"
Array = NDArray[np.float64]
Rows = NDArray[np.int64]


Judging = Callable[[Rows], NDArray[np.bool_]]
"""Which of these people (by number) may be judged."""


def everybody(rows: Rows) -> NDArray[np.bool_]:
    """All of them judge."""
    return np.ones(len(rows), bool)


def odd(rows: Rows) -> NDArray[np.bool_]:
    """Those with odd numbers: what ``space.refusal`` presumes was chosen on the others."""
    return np.asarray(rows % 2 == 1)


def even(rows: Rows) -> NDArray[np.bool_]:
    """Those with even numbers."""
    return np.asarray(rows % 2 == 0)


@dataclass(frozen=True)
class Rate:
    """Of ``tries`` so many were ``refused``, and so many more ``held`` for a person to look at."""

    what: str
    refused: int
    held: int
    tries: int

    @property
    def passed(self) -> int:
        return self.tries - self.refused - self.held


@dataclass(frozen=True)
class Registry:
    """A registry to try: so many ``registered``, so many who were learned from, whether who ``refused`` was erased."""

    registered: int
    taught: int = 0
    kept: bool = False
    refused: int = REFUSED

    @property
    def said(self) -> str:
        learned = f", {self.taught} people's repeats learned" if self.taught else ""
        few = "" if self.refused == REFUSED else f", {self.refused} refused"
        return f"{self.registered:,} registered{few}{learned}{', erased' if self.kept else ''}"


REGISTRIES = (
    Registry(1000),
    Registry(1000, kept=True),
    Registry(1000, taught=110),
    Registry(300),
    Registry(80),
    Registry(40),
    Registry(10),
    Registry(10, kept=True),
    Registry(10, refused=30),
    Registry(10, refused=5),
)


@dataclass(frozen=True, eq=False)
class Fold:
    """Who refuses (gallery rows), the registered, people nobody knows (gallery rows, and fingerprints of more of them),
    the people learned from."""

    refused: Rows
    registered: Rows
    unknown: Rows
    strangers: Array
    taught: Rows


def judged_half(data: Data) -> Data:
    """Half of the people and strangers, by a fixed draw: ``space.refusal``'s constants were chosen on the others."""
    rng = np.random.default_rng(99)
    known = np.unique(np.concatenate(list(data.of.values())))
    rest = np.setdiff1d(np.arange(len(data.gallery)), known)
    keep = np.sort(np.concatenate([np.array_split(rng.permutation(part), 2)[1] for part in (known, rest)]))
    place = {int(row): n for n, row in enumerate(keep)}
    mine = {kind: np.isin(of, keep) for kind, of in data.of.items()}
    return Data(
        data.gallery[keep],
        {kind: prints[mine[kind]] for kind, prints in data.asked.items()},
        {kind: np.array([place[int(row)] for row in of[mine[kind]]], np.int64) for kind, of in data.of.items()},
        np.array_split(data.strangers[rng.permutation(len(data.strangers))], 2)[1],
    )


def folds(data: Data, registry: Registry, count: int, judging: Judging = everybody) -> Iterator[Fold]:
    """Of the people who were trained again or otherwise, some refuse; of the others some teach. Whoever does not judge
    neither refuses nor is a stranger."""
    known = np.unique(np.concatenate(list(data.of.values())))
    known = known[judging(known)]
    for seed in range(count):
        rng = np.random.default_rng(seed)
        order = rng.permutation(known)
        refused, rest = order[: registry.refused], order[registry.refused :]
        teachers = rest[: registry.taught]
        pool = rng.permutation(np.setdiff1d(np.arange(len(data.gallery)), np.concatenate([refused, teachers])))
        most = max(0, min(registry.registered - len(teachers), int(0.75 * len(pool))))
        unknown = pool[most:][judging(pool[most:])]
        others = data.strangers[judging(np.arange(len(data.strangers)))]
        out = np.concatenate([data.gallery[unknown], others])
        yield Fold(refused, np.concatenate([pool[:most], teachers]), unknown, out, teachers)


@dataclass(frozen=True, eq=False)
class Compared:
    """What the door compares by: the model, the crowd (n, D), fingerprints (r, D) of who refused and where in the
    crowd they are (r,)."""

    model: VerdictModel
    crowd: Array
    refused: Array
    theirs: Rows


def compared(data: Data, fold: Fold, *, kept: bool) -> Compared:
    """As ``services.consent.behaviour`` does it. ``kept``: of who refused there are signs alone."""
    registered, refused = data.gallery[fold.registered], data.gallery[fold.refused]
    among = registered[np.sort(np.random.default_rng(0).permutation(len(registered))[:CROWD])]
    if kept:
        signs = np.concatenate([bits_of(refused, KEY, context) for context in SETS], axis=1)
        lengths = np.linalg.norm(refused, axis=1, keepdims=True)
        refused = likeliest(signs, KEY, SETS, refused.shape[1]) * lengths
    room = refused[: CROWD - len(among)]
    crowd = np.concatenate([among, room])
    if len(crowd) < LEAST_GALLERY:
        return Compared(few_model(crowd.shape[1]), crowd, refused, np.full(len(refused), -1))
    theirs = np.where(np.arange(len(refused)) < len(room), len(among) + np.arange(len(refused)), -1)
    return Compared(refusal_model(crowd, _taught(data, fold)), crowd, refused, theirs)


def _taught(data: Data, fold: Fold) -> VerdictModel | None:
    """What the teachers' repeats taught, where there are any."""
    if not len(fold.taught):
        return None
    place = {int(who): row for row, who in enumerate(fold.registered)}
    given = []
    for kind, prints in data.asked.items():
        mine = np.isin(data.of[kind], fold.taught)
        given.append(Repeats(kind, prints[mine], np.array([place[int(w)] for w in data.of[kind][mine]], np.int64)))
    return learn(data.gallery[fold.registered], given)


def alarms(by: Compared, queries: Array) -> Array:
    """(q, r): the chance of a false alarm with everybody who refused."""
    found = []
    for part in np.array_split(queries, max(1, len(queries) // 1000)):
        comparison = Comparison(by.model, part, by.crowd, among=len(by.refused))
        found.append(comparison.with_known(by.refused, by.theirs))
    return np.concatenate(found)


def rates(data: Data, registry: Registry, count: int, judging: Judging = everybody) -> list[Rate]:
    """The rates of ``count`` folds: strangers per add, and each kind of training of who refused and of strangers."""
    total: dict[str, list[Array]] = {}
    # With few who refused there are few to be missed: more draws.
    for fold in folds(data, registry, count * REFUSED // registry.refused, judging):
        by = compared(data, fold, kept=registry.kept)
        total.setdefault(STRANGER, []).append(alarms(by, fold.strangers).min(1))
        at = {int(who): column for column, who in enumerate(fold.refused)}
        for kind, prints in data.asked.items():
            theirs = np.isin(data.of[kind], fold.unknown)
            if theirs.any():
                name = f"stranger, {kind}" if kind in UNFINISHED else OTHERWISE
                total.setdefault(name, []).append(alarms(by, prints[theirs]).min(1))
            mine = np.flatnonzero(np.isin(data.of[kind], fold.refused))
            if len(mine):
                own = alarms(by, prints[mine])[np.arange(len(mine)), [at[int(data.of[kind][m])] for m in mine]]
                total.setdefault(NAMES.get(kind, kind), []).append(own)
    found = {what: np.concatenate(parts) for what, parts in total.items()}
    return [Rate(w, int((a <= ALARM).sum()), int(((a > ALARM) & (a <= HOLD)).sum()), len(a)) for w, a in found.items()]


def by_anybody(data: Data, registered: int, count: int, judging: Judging = everybody) -> tuple[str, Rate]:
    """Strangers, where each of ``count`` hundreds who refuse is drawn from everybody who judges (folds draw it from the
    few who were trained twice, whom no stranger's rate needs). A sentence with who was refused, and the rate."""
    people = np.concatenate([data.gallery, data.strangers])
    numbers = np.arange(len(people))
    pairs: Counter[tuple[int, int]] = Counter()
    tried: set[int] = set()
    refused = held = tries = 0
    for seed in range(count):
        rng = np.random.default_rng(1000 + seed)
        who = rng.permutation(np.flatnonzero(judging(numbers)))[:REFUSED]
        others = rng.permutation(np.setdiff1d(numbers, who))
        out = others[registered:]
        out = out[judging(out)]
        crowd = people[np.concatenate([others[:registered], who])]
        by = Compared(refusal_model(crowd), crowd, people[who], registered + np.arange(REFUSED))
        chances = alarms(by, people[out])
        best = chances.min(1)
        for row in np.flatnonzero(best <= ALARM):
            a, b = sorted((int(out[row]), int(who[chances[row].argmin()])))
            pairs[a, b] += 1
        refused += int((best <= ALARM).sum())
        held += int(((best > ALARM) & (best <= HOLD)).sum())
        tries += len(out)
        tried |= set(out.tolist())
    named = ", ".join(f"{a} and {b} ({n})" for (a, b), n in pairs.most_common())
    rate = Rate(STRANGER, refused, held, tries)
    return (
        f"{registered} registered, any hundred of those judged refuse ({count} draws): of {tries:,} strangers "
        f"({len(tried)} people) {refused} refused ({refused / tries:.4f}), {held} held ({held / tries:.4f}); "
        f"pairs refused: {named or 'none'}"
    ), rate


def table(
    data: Data, name: str, registries: Sequence[Registry], count: int, judging: Judging = everybody
) -> tuple[str, list[Rate]]:
    """The rates as a table, and those of the first registry, in which nothing was learned."""
    lines = [
        f"| {name}: held against a hundred who refused | of | refused, 95% | held, 95% | let pass, 95% |",
        "| --- | --- | --- | --- | --- |",
    ]
    first: list[Rate] = []
    for registry in registries:
        found = rates(data, registry, count, judging)
        first = first or found
        for rate in found:
            lines.append(f"| {rate.what}, {registry.said} | {rate.tries:,} | {row_of(rate)} |")
    return "\n".join(lines), first


def row_of(rate: Rate) -> str:
    """Three cells of a table: who is refused, held and let pass."""
    return " | ".join(_told(n, rate.tries) for n in (rate.refused, rate.held, rate.passed))


def _told(hits: int, tries: int) -> str:
    spread = share(np.arange(tries) < hits)
    return f"{hits:,}: {spread.value:.4f} [{spread.low:.4f}, {spread.high:.4f}]"
