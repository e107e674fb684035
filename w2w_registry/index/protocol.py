"""What every index does, and the stamp that says of which catalog state an index is a copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Batch = tuple[Ids, Vectors]


@dataclass(frozen=True)
class Stamp:
    """Which catalog state an index holds: the space and the metric its vectors were made with, the catalog's last
    change number it has seen, its kind, and how many rows it had then."""

    space_digest: str
    metric_digest: str
    seq: int
    kind: str
    size: int


class VectorIndex(Protocol):
    """Nearest rows by inner product, over vectors of norm at most one.

    The caller has already applied the metric's map to the coordinates, so that similarity is the inner product.
    Every kind returns the same score for the same pair of vectors (``vectors.score``); kinds differ only in whether
    they may miss a neighbour (``exact`` never does). One index object belongs to one thread at a time.
    """

    @property
    def kind(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def size(self) -> int:
        """Number of rows."""

    def ids(self) -> Ids:
        """Every row's id, ascending, int64 (size,)."""

    def add(self, ids: ArrayLike, vectors: ArrayLike) -> None:
        """Add rows, or replace the ones that are there already; of an id given twice the last row counts.

        Args:
            ids: int64 (n,).
            vectors: float32 (n, dim), each of norm at most one.

        Raises:
            IntegrityError: a wrong shape, a value that is not finite, or a norm above one; nothing is added.
        """

    def remove(self, ids: ArrayLike) -> int:
        """Drop rows by id, int64 (n,); ids that are not there are passed over. Returns how many left."""

    def search(
        self, queries: ArrayLike, limit: int, *, allowed: ArrayLike | None = None, forbidden: ArrayLike | None = None
    ) -> tuple[Ids, Vectors]:
        """The best ``limit`` rows of each query, highest score first, equal scores by ascending id.

        Args:
            queries: float32 (q, dim), each of norm at most one.
            limit: rows wanted per query, 0 or more.
            allowed: only these ids may be returned; None = every one. Unknown ids are passed over.
            forbidden: these ids may not be returned, even when allowed.

        Returns:
            ids int64 (q, m) and scores float32 (q, m), where m = min(limit, rows that may be returned).

        Raises:
            IntegrityError: bad queries, or stored rows found damaged when they were read.
        """

    def batches(self, rows: int = 4096) -> Iterator[Batch]:
        """Every row in ascending id order, at most ``rows`` at a time."""

    @property
    def pending(self) -> int:
        """Rows added, replaced or removed since the index was read from disk: what a save would fold in."""
