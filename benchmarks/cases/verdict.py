"""Who is it, among N, and is it anybody: the learned verdict against plain cosine, on people held out of learning.

``--gallery NPZ`` (arrays ``gallery`` (n, d), ``queries`` and ``foreign`` with their rows ``queries_of`` and
``foreign_of``, ``strangers``) is what the model learns from; ``--held NPZ``, of the same form, is what it is judged
on: all its queries and strangers, against its own gallery, or the first file's where it brings none. With one file
alone, whichever it is called, its people are split in four, and each quarter is judged by a model that learned from the
others. Without either, the mini world's own fingerprints are read. Fails when the figures fall short of the targets.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.frame import FellShort, Row
from w2w_registry.space.intervals import share
from w2w_registry.space.verdict import Repeats, VerdictModel, learn

Array = NDArray[np.float64]
GALLERY, HELD = "BENCH_GALLERY", "BENCH_HELD"
ALARMS = 0.01
FOLDS = 4
KINDS = ("queries", "foreign")
RECALL = {"queries": 0.998, "foreign": 0.996}
ACCEPTED = {"queries": 0.99, "foreign": 0.90}
ACCEPTED_SMALL = {"queries": 0.985, "foreign": 0.98}
NAMES = {"queries": "retrained", "foreign": "foreign"}


@dataclass(frozen=True)
class Data:
    """Fingerprints of people: ``gallery`` (n, d), ``queries`` and ``foreign`` (m, d) with gallery rows ``of``."""

    gallery: Array
    asked: dict[str, Array]
    of: dict[str, NDArray[np.int64]]
    strangers: Array

    @classmethod
    def read(cls, path: Path, gallery: Array | None = None) -> Data:
        """A file; ``gallery`` is whom its queries are looked for among, where it brings nobody.

        Raises:
            FellShort: it cannot be read, lacks what is to be judged, or is of another width.
        """
        wanted = ("strangers", *KINDS, *(f"{kind}_of" for kind in KINDS))
        try:
            with np.load(path) as file:
                held = {name: file[name] for name in ("gallery", *wanted) if name in file}
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise FellShort(f"{path} is no NPZ of fingerprints: {error}") from error
        lacking = [name for name in wanted if name not in held]
        if lacking or ("gallery" not in held and gallery is None):
            raise FellShort(f"{path} has no {', '.join(lacking) or 'gallery'}")
        asked = {kind: held[kind].astype(np.float64) for kind in KINDS}
        of = {kind: held[f"{kind}_of"].astype(np.int64) for kind in KINDS}
        rows = held["gallery"].astype(np.float64) if "gallery" in held else gallery
        found = cls(np.asarray(rows), asked, of, held["strangers"].astype(np.float64))
        wide = {part.shape[1:] for part in (found.gallery, found.strangers, *asked.values())}
        if gallery is not None:
            wide.add(gallery.shape[1:])
        if len(wide) > 1 or len(next(iter(wide))) != 1:
            told = " and ".join(str(size[0]) if size else "no" for size in sorted(wide))
            raise FellShort(f"{path}: fingerprints to be compared have {told} floats, and should have as many each")
        if not len(found.strangers):
            raise FellShort(f"{path} has no strangers: nothing says how often one is taken for somebody")
        if any(len(of[kind]) != len(asked[kind]) for kind in KINDS):
            raise FellShort(f"{path} does not say of every query whose it is")
        if any(len(rows) and not 0 <= rows.min() <= rows.max() < len(found.gallery) for rows in of.values()):
            raise FellShort(f"{path} names rows its gallery does not have")
        return found

    def shares(self, other: Data) -> bool:
        """Whether a query of the other is among its own."""
        mine, theirs = ({row.tobytes() for kind in KINDS for row in one.asked[kind]} for one in (self, other))
        return bool(mine & theirs)

    def only(self, rows: NDArray[np.int64]) -> Data:
        """The queries of these people; gallery and strangers stay."""
        keep = {kind: np.isin(self.of[kind], rows) for kind in KINDS}
        asked = {kind: self.asked[kind][keep[kind]] for kind in KINDS}
        return Data(self.gallery, asked, {kind: self.of[kind][keep[kind]] for kind in KINDS}, self.strangers)

    def model(self, repeats: bool = True) -> VerdictModel:
        given = [Repeats(NAMES[kind], self.asked[kind], self.of[kind]) for kind in KINDS] if repeats else []
        return learn(self.gallery, given)


@dataclass(frozen=True)
class Found:
    """Per query of one kind: was it the best, was it accepted at the strangers' threshold, was it called ``same``."""

    first: NDArray[np.bool_]
    accepted: NDArray[np.bool_]
    same: NDArray[np.bool_]
    alarms: NDArray[np.bool_]


def judged(model: VerdictModel, data: Data, kind: str) -> Found:
    best = _scores(model, data.strangers, data.gallery).max(1)
    threshold = np.quantile(best, 1 - ALARMS)
    scores = _scores(model, data.asked[kind], data.gallery)
    own = scores[np.arange(len(scores)), data.of[kind]]
    first = scores.argmax(1) == data.of[kind]
    size = len(data.gallery)
    called = model.strangers.false_alarm(own, size) <= ALARMS
    alarms = model.strangers.false_alarm(best, size) <= ALARMS
    return Found(first, first & (own > threshold), first & called, alarms)


def _scores(model: VerdictModel, queries: Array, gallery: Array) -> Array:
    return np.concatenate([model.score(part, gallery) for part in np.array_split(queries, max(1, len(queries) // 128))])


def folds(data: Data) -> Iterator[tuple[Data, Data]]:
    """(learn from, judge on), by person."""
    people = np.unique(np.concatenate([data.of[kind] for kind in KINDS]))
    for part in np.array_split(np.random.default_rng(0).permutation(people), FOLDS):
        yield data.only(np.setdiff1d(people, part)), data.only(part)


def rows(small: bool) -> Iterator[Row]:
    held, pairs = _read(small)
    models = [(one.model(), one.model(repeats=False), other) for one, other in pairs]
    targets = ACCEPTED if len(pairs[0][1].gallery) > 4096 else ACCEPTED_SMALL
    short = []
    for kind in KINDS:
        found = [judged(model, other, kind) for model, _, other in models]
        plain = [judged(model, other, kind) for _, model, other in models]
        first, accepted, same = (
            np.concatenate([getattr(f, key) for f in found]).astype(float) for key in ("first", "accepted", "same")
        )
        cosine = float(np.concatenate([f.accepted for f in plain]).mean()) if len(first) else float("nan")
        if not len(first):
            short.append(f"{NAMES[kind]}: nobody to judge")
            continue
        quality = {
            "recall@1": str(share(first)),
            f"accepted at {ALARMS:.0%} false alarms": str(share(accepted)),
            "called same": str(share(same)),
            "strangers called same": str(share(found[0].alarms)),
        }
        size = {
            "unit": "accepted",
            "gallery": len(pairs[0][1].gallery),
            "strangers": len(pairs[0][1].strangers),
            "judged on": "--held" if held else f"{len(pairs)} splits by person",
        }
        yield Row(f"verdict, {NAMES[kind]}", float(accepted.mean()), cosine, "cosine", quality, size, True)
        for what, figure, target in (
            ("recall@1", float(first.mean()), RECALL[kind]),
            ("accepted", float(accepted.mean()), targets[kind]),
        ):
            if figure < target:
                short.append(f"{NAMES[kind]}: {what} {figure:.4f}, should be at least {target}")
    if short:
        raise FellShort("; ".join(short))


def _read(small: bool) -> tuple[bool, list[tuple[Data, Data]]]:
    """Whether one file judges what another taught, and (learn from, judge on)."""
    first, second = (Path(path) if path else None for path in map(os.environ.get, (GALLERY, HELD)))
    if first is None or second is None:
        alone = first or second
        return False, list(folds(Data.read(alone) if alone else _miniworld()))[: 1 if small else FOLDS]
    data = Data.read(first)
    other = Data.read(second, data.gallery)
    if data.shares(other):
        raise FellShort(f"{second} would judge the very fingerprints that {first} teaches: give it alone, to be split")
    return True, [(data, other)]


def _miniworld() -> Data:
    from examples.miniworld.fingerprints import data

    gallery, queries, of, strangers = data()
    return Data(gallery, queries, of, strangers)
