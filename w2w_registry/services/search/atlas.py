"""A weight space to look at: its spectrum, where its people lie, and how far apart strangers score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import vectors
from w2w_registry.catalog.identities import named
from w2w_registry.catalog.lookup import labels_of
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.points import repeats
from w2w_registry.catalog.resolve import space_for
from w2w_registry.errors import MissingExtra
from w2w_registry.services.recording.spaces import metric_of
from w2w_registry.services.registry import Registry

POINTS: Final = 1500
PAIRS_OF: Final = 600
REPEATS: Final = 1000
Way = Literal["pca", "umap"]
NEIGHBOURS: Final = 15
FEWEST: Final = 10
"""Repeats below which misses are not drawn."""


@dataclass(frozen=True)
class Point:
    """One version on the map: its first two coordinates, in standard deviations of those shown, and its labels."""

    ref: str
    kind: str
    x: float
    y: float
    labels: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Atlas:
    """What there is to draw of a space.

    ``spectrum``: share of the variance of each component. ``points``: at most ``POINTS`` of the ``population``.
    ``scores``, ``false_matches``: for rising scores, the share of pairs of different identities that reach them,
    among ``pairs`` of them; ``misses``: the share of ``repeats`` pairs of one identity that do not, None where too few
    were learned twice. ``threshold``, ``false_match_rate``: the line drawn in the space's calibration.
    """

    space: str
    spectrum: tuple[float, ...]
    points: tuple[Point, ...]
    population: int
    scores: tuple[float, ...]
    false_matches: tuple[float, ...]
    pairs: int
    threshold: float | None
    false_match_rate: float | None
    misses: tuple[float, ...] | None = None
    repeats: int = 0


def atlas(registry: Registry, ref: str | None = None) -> Atlas:
    """A space drawn from an even sample of its active versions.

    Raises:
        NotFound: no such space.
    """
    with registry.catalog.read() as session:
        row = space_for(session, ref)
        everybody, names, matrix = _sample(session, row, POINTS)
        labels = labels_of(session, names)
        twice = repeats(session, row.id, REPEATS)
        again = vectors.coordinates_of(session, row.id, sorted({i for pair in twice for i in pair}))
    plane = _scaled(matrix[:, :2] if matrix.shape[1] > 1 else np.pad(matrix, ((0, 0), (0, 1))))
    points = tuple(
        Point(ref, kind, float(x), float(y), labels.get(key, {}))
        for (key, (ref, kind, _)), (x, y) in zip(names.items(), plane, strict=True)
    )
    scores, rates, pairs = _strangers(row, matrix, [identity for _, _, identity in names.values()])
    misses = _misses(row, [(again[a], again[b]) for a, b in twice if a in again and b in again], scores)
    return Atlas(
        row.ref,
        tuple(float(v) for v in row.explained_variance or ()),
        points,
        everybody,
        scores,
        rates,
        pairs,
        row.calibration.get("threshold"),
        row.calibration.get("false_match_rate"),
        misses,
        len(twice),
    )


def needs_umap() -> None:
    """Raises MissingExtra: UMAP is not installed."""
    if find_spec("umap") is None:
        raise MissingExtra(package="umap-learn", extra="umap", feature="a UMAP map")


def unfolded(registry: Registry, ref: str | None = None) -> Mapping[str, tuple[float, float]]:
    """Where UMAP puts the versions that :func:`atlas` draws, in standard deviations, by reference. It takes seconds.

    Raises:
        NotFound: no such space. MissingExtra.
    """
    with registry.catalog.read() as session:
        row = space_for(session, ref)
        _, names, matrix = _sample(session, row, POINTS)
    return {one[0]: (float(x), float(y)) for one, (x, y) in zip(names.values(), _umap(row, matrix), strict=True)}


def table(registry: Registry, ref: str | None, by: Way, most: int) -> tuple[list[dict[str, Any]], int]:
    """A map for another program: an even sample of at most ``most`` active versions with their labels, and of how many.

    Raises:
        NotFound: no such space. MissingExtra.
    """
    with registry.catalog.read() as session:
        row = space_for(session, ref)
        everybody, names, matrix = _sample(session, row, most)
        labels = labels_of(session, names)
    plane = _umap(row, matrix) if by == "umap" else _scaled(matrix[:, :2])
    rows = [
        {"version": one, "kind": kind, "x": float(x), "y": float(y), **{f"label.{k}": v for k, v in told.items()}}
        for (one, kind, _), told, (x, y) in zip(names.values(), (labels.get(i, {}) for i in names), plane, strict=True)
    ]
    return rows, everybody


def _sample(
    session: Session, row: Space, most: int
) -> tuple[int, dict[int, tuple[str, str, int]], NDArray[np.float32]]:
    """How many active versions there are; of an even sample (ref, kind, identity id) by version id, and coordinates."""
    everybody = vectors.ids(session, row.id)
    chosen = _evenly(everybody, most)
    names, found = _names(session, chosen), vectors.coordinates_of(session, row.id, chosen)
    ids = [i for i in chosen if i in found and i in names]
    matrix = np.stack([found[i] for i in ids]) if ids else np.zeros((0, max(2, row.components)), np.float32)
    return len(everybody), {i: names[i] for i in ids}, matrix


def _scaled(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """A plane about its middle, in standard deviations."""
    return plane if not len(plane) else (plane - plane.mean(axis=0)) / np.maximum(plane.std(axis=0), 1e-12)


def _umap(row: Space, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two dimensions that keep neighbours together (McInnes et al., arXiv 1802.03426), near by the space's own metric.
    The seed is fixed: the same people give the same map."""
    needs_umap()
    from umap import UMAP

    if len(matrix) <= NEIGHBOURS:
        return _scaled(matrix[:, :2])
    units = metric_of(row).unit(matrix)  # of unit rows, the Euclidean distance orders as the cosine does
    plane: NDArray[np.float32] = UMAP(n_neighbors=NEIGHBOURS, random_state=0, n_jobs=1).fit_transform(units)
    return _scaled(plane)


def _misses(
    row: Space, pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]], scores: tuple[float, ...]
) -> tuple[float, ...] | None:
    """Share of pairs of one identity that score below each of ``scores``."""
    if len(pairs) < FEWEST or not scores:
        return None
    metric = metric_of(row)
    first, second = (metric.unit(np.stack(side)) for side in zip(*pairs, strict=True))
    own = np.sort((first * second).sum(axis=1))
    return tuple(float(v) for v in np.searchsorted(own, np.asarray(scores), side="left") / len(own))


def _evenly(ids: NDArray[np.int64], most: int) -> list[int]:
    if len(ids) <= most:
        return [int(i) for i in ids]
    return [int(ids[i]) for i in np.linspace(0, len(ids) - 1, most).astype(int)]


def _names(session: Session, ids: Sequence[int]) -> dict[int, tuple[str, str, int]]:
    """(ref, kind, identity id) of each version."""
    return {i: (f"{one.name}@{one.number}", str(one.kind), one.identity_id) for i, one in named(session, ids).items()}


def _strangers(
    row: Space, matrix: NDArray[np.float32], identities: list[int]
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Share of pairs of different identities at or above each of 121 scores."""
    rows = np.linspace(0, len(matrix) - 1, min(PAIRS_OF, len(matrix))).astype(int)
    if len(rows) < 10:
        return (), (), 0
    units = metric_of(row).unit(matrix[rows])
    who = np.asarray(identities)[rows]
    upper = np.triu(who[:, None] != who[None, :], k=1)
    scores = np.sort((units @ units.T)[upper])
    grid = np.linspace(float(scores[0]), max(float(scores[-1]), row.calibration.get("threshold") or 0.0), 121)
    rates = 1.0 - np.searchsorted(scores, grid, side="left") / len(scores)
    return tuple(map(float, grid)), tuple(map(float, rates)), len(scores)
