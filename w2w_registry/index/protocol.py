"""What every index does, and the stamp that says of which catalog state an index is a copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Batch = tuple[Ids, Vectors]


@dataclass(frozen=True)
class Stamp:
    """Which catalog state an index holds: the space and the metric its vectors were made with, the number of the last
    event it has seen, its kind, how many rows it had then, and that event's hash.

    The hash tells apart what the number cannot: an index that is ahead of this reader's snapshot, and one of events
    that never happened in this catalog, which was set back to a backup.
    """

    space_digest: str
    metric_digest: str
    seq: int
    kind: str
    size: int
    head: str = ""


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
        self,
        queries: ArrayLike,
        limit: int,
        *,
        allowed: ArrayLike | None = None,
        forbidden: ArrayLike | None = None,
        exact: bool = False,
        fast: bool = False,
    ) -> tuple[Ids, Vectors]:
        """The best ``limit`` rows of each query, highest score first, equal scores by ascending id.

        Args:
            queries: float32 (q, dim), each of norm at most one.
            limit: rows wanted per query, 0 or more.
            allowed: only these ids may be returned; None = every one. Unknown ids are passed over.
            forbidden: these ids may not be returned, even when allowed.
            exact: look at every row, also where the kind would rather look at a few (``exhaustive`` says).
            fast: look at fewer rows than usual; a few in a hundred of the nearest may then be missing.

        Returns:
            ids int64 (q, m) and scores float32 (q, m), where m = min(limit, rows that may be returned).

        Raises:
            IntegrityError: bad queries, or stored rows found damaged when they were read.
        """

    def above(
        self,
        queries: ArrayLike,
        threshold: float,
        *,
        limit: int | None = None,
        allowed: ArrayLike | None = None,
        forbidden: ArrayLike | None = None,
    ) -> list[Batch]:
        """Every row that scores ``threshold`` or more, for each query, or the best ``limit`` of them: ids int64 (m,)
        and scores float32 (m,), in the order of ``search``. No kind ever misses one: "nobody else reaches the
        threshold", or comes before the last of ``limit``, is proven.

        Raises:
            IntegrityError: as ``search``.
        """

    @property
    def exhaustive(self) -> bool:
        """Whether ``search`` never misses a row even when it is not asked to be exact."""

    def batches(self, rows: int = 4096) -> Iterator[Batch]:
        """Every row in ascending id order, at most ``rows`` at a time."""

    @property
    def pending(self) -> int:
        """Rows added, replaced or removed since the index was read from disk: what a save would fold in."""


class Engine(Protocol):
    """Where one index is kept, and how: one class for each way of keeping one.

    Another process may write at any time. None of these replaces a later state of the same catalog by an earlier one.
    """

    @property
    def kind(self) -> str: ...

    @property
    def settled(self) -> bool:
        """Whether an index stays as it was opened or kept, whatever others write; what a server holds does not."""

    def empty(self, dim: int) -> VectorIndex:
        """A new, empty index; what was kept is untouched unless the kind lives where it is kept (Milvus)."""

    def open(self) -> tuple[VectorIndex, Stamp] | None:
        """What is kept, with its stamp; None when there is nothing that checks out.

        Raises:
            MissingExtra: the kind needs a package that is not installed.
            Busy, StorageError: the place is locked by another process, or cannot be used.
        """

    def mark(self) -> bytes | None:
        """What tells that which is kept from everything kept before; None when nothing is, or it is not
        ``settled``."""

    def wait(self) -> bool:
        """Whether another process was writing here; it has ended then."""

    def build(self, dim: int, stamp: Stamp, batches: Iterable[Batch]) -> tuple[VectorIndex, Stamp]:
        """An index of those rows (ascending ids), kept under ``stamp``; kind and size are filled in.

        When it cannot be kept (another process is writing, or has a later state) it is only returned.

        Raises:
            IntegrityError: ids out of order, or vectors that no index would admit. Others: as ``open``.
        """

    def keep(self, index: VectorIndex, stamp: Stamp) -> bool:
        """Keep the state of ``index``; False when another process is writing, or a later state is kept.

        Raises:
            IntegrityError: the index was read from damaged rows. Others: as ``open``.
        """

    def optimize(self) -> tuple[int, int] | None:
        """Write all that is kept as one piece, without removed rows, while readers go on: of how many pieces it was,
        and how many rows it has. None, with nothing done, when nothing is kept, another process is writing, or whoever
        keeps it sees to that itself (Milvus).

        Raises:
            As ``open``.
        """

    def drop(self) -> None:
        """Delete all that is kept, as erasure asks; what was never there is no error.

        Raises:
            As ``open``.
        """


class PlacedEngine(Engine, Protocol):
    """An engine that says itself where its indices are kept, instead of in a folder of the cache."""

    @classmethod
    def of(cls, options: Mapping[str, Any], root: Path, folder: Path) -> Engine:
        """The engine of the index that stands for ``folder`` of the cache ``root``, as the ``[index]`` table asks.

        Raises:
            SettingError: the table cannot mean anything.
        """

    @classmethod
    def kept(cls, options: Mapping[str, Any], root: Path) -> Iterator[Engine]:
        """An engine for each index that may be kept, under these options or earlier ones.

        Raises:
            As ``open``.
        """
