"""Near pairs among many sketches without comparing all with all: locality-sensitive hashing (Datar et al., SoCG 2004).

A pair at distance d falls into one bucket of width w of a random projection with a chance of about 1 − 0.8 d / w; of
``WIDE`` projections together with that to the power ``WIDE``. ``TABLES`` independent tables leave few pairs unseen: at
``sketch.NEAR`` one in a thousand, at the distance of a copy (bf16, another rank) fewer than one in a million.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.space.sketch import NEAR, PROBES

TABLES: Final = 16
WIDE: Final = 6
WIDTH: Final = 0.5
_CROWDED: Final = 64
"""Members of one bucket that are all compared with one another; more of them only with their neighbours in it."""

Array = NDArray[np.float64]


def near_pairs(
    sketches: ArrayLike, norms: ArrayLike, *, near: float = NEAR, seed: int = 0
) -> list[tuple[int, int, float]]:
    """Pairs (i < j, their relative distance) of sketches (n, d) with ‖ΔW‖ ``norms`` (n,), nearest first.

    Rows without a norm are of no model and have no pairs.
    """
    rows, size = np.asarray(sketches, np.float64), np.asarray(norms, np.float64)
    there = np.flatnonzero(size > 0)
    if len(there) < 2:
        return []
    # Scaled so that distances are relative, and centred: what all have in common tells nobody apart.
    points = rows[there] / (np.sqrt(PROBES) * size[there, None])
    centred = points - points.mean(0)
    spread = float(np.sqrt((centred**2).sum(1).mean())) or 1.0
    rng = np.random.default_rng(seed)
    seen: NDArray[np.int64] = np.zeros((0, 2), np.int64)
    for _ in range(TABLES):
        directions = rng.normal(size=(points.shape[1], WIDE)) / spread
        cells = np.floor(centred @ directions / WIDTH + rng.uniform(size=WIDE)).astype(np.int64)
        seen = np.unique(np.concatenate([seen, _together(cells, centred @ directions[:, 0])]), axis=0)
    pairs = there[seen]
    gaps = np.concatenate(
        [np.zeros(0)]
        + [
            np.linalg.norm(rows[part[:, 0]] - rows[part[:, 1]], axis=1)
            / (np.sqrt(PROBES) * np.maximum(size[part[:, 0]], size[part[:, 1]]))
            for part in np.array_split(pairs, max(1, len(pairs) // 100_000))
        ]
    )
    order = np.lexsort((pairs[:, 1], pairs[:, 0], gaps))
    return [(int(pairs[i, 0]), int(pairs[i, 1]), float(gaps[i])) for i in order if gaps[i] <= near]


def _together(cells: NDArray[np.int64], along: Array) -> NDArray[np.int64]:
    """Pairs (m, 2), i < j, of rows in one cell."""
    _, bucket = np.unique(cells, axis=0, return_inverse=True)
    bucket = bucket.reshape(-1)
    order = np.lexsort((along, bucket))
    sizes = np.bincount(bucket)
    found = []
    for step in range(1, min(int(sizes.max()), _CROWDED)):
        first, second = order[:-step], order[step:]
        same = bucket[first] == bucket[second]
        if not same.any():
            break
        found.append(np.sort(np.stack([first[same], second[same]], axis=1), axis=1))
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)
