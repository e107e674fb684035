"""Milvus behind the index protocol: a server for catalogs beyond one machine, or Milvus Lite in a local file.

The collection holds ids and vectors and lives where Milvus lives, so it is shared by everyone who uses the catalog
and there is nothing to save: only the stamp is written, into a small collection beside it, and only after the rows it
speaks of. Rows are upserted, so applying changes again after a crash does no harm. A local file serves one process at
a time (Milvus Lite locks it); a second one is told ``Busy``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from w2w_registry.errors import IntegrityError
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.milvus_server import (
    LOCAL_FILE,
    STAMPS,
    MilvusTarget,
    calls,
    connect,
    create_collection,
    prepare_stamps,
    types,
)
from w2w_registry.index.protocol import Batch, Ids, Stamp, VectorIndex, Vectors
from w2w_registry.index.segments import rows_above
from w2w_registry.index.vectors import as_batch, as_ids, as_vectors, best, rounding, score
from w2w_registry.records import canonical_json

KIND = "milvus"
_PREFIX = "w2w_"
MAX_HITS = 16_384  # Milvus returns no more per query
_MARGIN = 16
_SEND_BYTES = 8 << 20


class MilvusIndex:
    """One collection. Milvus proposes, the exact vectors decide: scores are those of every other kind.

    A local file is searched exactly; what a server may miss is up to the index it builds (AUTOINDEX).
    """

    kind = KIND

    def __init__(self, target: MilvusTarget, collection: str, dim: int, client: Any) -> None:
        self._target, self._collection, self._dim, self._client = target, collection, dim, client

    @classmethod
    def create(cls, target: MilvusTarget, collection: str, dim: int) -> Self:
        """An empty collection in place of whatever had this name; its stamp is gone too.

        Raises:
            MissingExtra: pymilvus or milvus-lite is not installed. Busy: another process has the local file open.
            StorageError: Milvus refused or cannot be reached.
        """
        client = connect(target)
        with calls(target):
            prepare_stamps(client)
            client.delete(STAMPS, ids=[collection])
            if client.has_collection(collection):
                client.drop_collection(collection)
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", types().INT64, is_primary=True)
            schema.add_field("vector", types().FLOAT_VECTOR, dim=dim)
            create_collection(client, collection, schema, "FLAT" if target.is_local else "AUTOINDEX")
        return cls(target, collection, dim, client)

    @classmethod
    def attach(cls, target: MilvusTarget, collection: str) -> tuple[Self, Stamp] | None:
        """The collection and its stamp; None when one of them is missing (a rebuild that was cut short has no stamp).

        Raises: as ``create``.
        """
        if target.is_local and not Path(target.uri).exists():
            return None
        client = connect(target)
        with calls(target):
            if not (client.has_collection(collection) and client.has_collection(STAMPS)):
                return None
            for name in (collection, STAMPS):  # Milvus Lite releases every collection when its process ends
                client.load_collection(name)
            rows = client.get(STAMPS, ids=[collection], output_fields=["stamp"])
            fields = client.describe_collection(collection)["fields"]
        try:
            stamp = Stamp(**json.loads(rows[0]["stamp"]))
            dim = next(int(f["params"]["dim"]) for f in fields if f["name"] == "vector")
        except (IndexError, KeyError, TypeError, ValueError, StopIteration):
            return None
        return cls(target, collection, dim, client), stamp

    def keep(self, stamp: Stamp) -> bool:
        """Record what the collection holds; False when a later state of the same catalog is recorded already."""
        stamp = replace(stamp, kind=self.kind, size=self.size)
        found = self.attach(self._target, self._collection)
        if found is not None:
            kept = found[1]
            same = (kept.space_digest, kept.metric_digest) == (stamp.space_digest, stamp.metric_digest)
            if same and kept.seq > stamp.seq:
                return False
        row = {"id": self._collection, "stamp": canonical_json(asdict(stamp)), "vector": [0.0, 0.0]}
        with calls(self._target):
            self._client.upsert(STAMPS, [row])
        return True

    def drop(self) -> None:
        """Delete the collection and its stamp."""
        with calls(self._target):
            self._client.delete(STAMPS, ids=[self._collection])
            self._client.drop_collection(self._collection)

    def close(self) -> None:
        """Let go of the connection, and of the local file."""
        self._client.close()

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def size(self) -> int:
        return self._count("")

    @property
    def pending(self) -> int:
        """Nothing waits for a save: Milvus has every row already."""
        return 0

    def ids(self) -> Ids:
        with calls(self._target):
            pages = self._client.query_iterator(
                self._collection, batch_size=MAX_HITS // 2, filter="", output_fields=["id"]
            )
            found: list[int] = []
            while page := pages.next():
                found += [row["id"] for row in page]
            pages.close()
        return np.sort(np.array(found, np.int64))

    def add(self, ids: ArrayLike, vectors: ArrayLike) -> None:
        keys, rows = as_batch(ids, vectors, self._dim)
        step = max(1, _SEND_BYTES // (4 * self._dim))
        with calls(self._target):
            for start in range(0, len(keys), step):
                part = zip(keys[start : start + step].tolist(), rows[start : start + step], strict=True)
                self._client.upsert(self._collection, [{"id": key, "vector": row} for key, row in part])

    def remove(self, ids: ArrayLike) -> int:
        keys = np.unique(as_ids(ids))
        if len(keys) == 0:
            return 0
        there = self._count(_among(keys))
        with calls(self._target):
            self._client.delete(self._collection, ids=keys.tolist())
        return there

    @property
    def exhaustive(self) -> bool:
        """A local file is searched row by row; a server decides for itself."""
        return self._target.is_local

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
        asked = as_vectors(queries, self._dim, what="query")
        if exact and not self.exhaustive:
            return self._by_reading_all(asked, limit, allowed, forbidden)
        expression = _expression(allowed, forbidden)
        count = 0 if expression is None else self._count(expression)
        width = max(0, min(limit, count))
        ids, scores = np.empty((len(asked), width), np.int64), np.empty((len(asked), width), np.float32)
        if expression is None or width == 0:
            return ids, scores
        for i, query in enumerate(asked):
            hits = self._nearest(query, width, count, expression)
            if hits is None:
                return self._by_reading_all(asked, limit, allowed, forbidden)
            ids[i], scores[i] = best(hits[0], score(hits[1], query), width)
        return ids, scores

    def above(
        self,
        queries: ArrayLike,
        threshold: float,
        *,
        limit: int | None = None,
        allowed: ArrayLike | None = None,
        forbidden: ArrayLike | None = None,
    ) -> list[Batch]:
        asked = as_vectors(queries, self._dim, what="query")
        least = np.float32(threshold)
        parts: list[list[Batch]] = [[] for _ in asked]
        for keys, vectors in self.batches():
            keep = np.ones(len(keys), bool) if allowed is None else np.isin(keys, as_ids(allowed))
            if forbidden is not None:
                keep &= ~np.isin(keys, as_ids(forbidden))
            for part, found in zip(parts, rows_above(keys, vectors, asked, least, np.flatnonzero(keep)), strict=True):
                part.append(found)
        none: Batch = np.empty(0, np.int64), np.empty(0, np.float32)
        joined = [[none, *part] for part in parts]
        return [
            best(
                np.concatenate([ids for ids, _ in part]),
                np.concatenate([scores for _, scores in part]),
                self.size if limit is None else limit,
            )
            for part in joined
        ]

    def _nearest(self, query: Vectors, width: int, count: int, expression: str) -> Batch | None:
        """The ``width`` nearest rows and every row that ties with the last; None when Milvus cannot give them."""
        wanted = min(count, width + _MARGIN)
        while wanted <= MAX_HITS:
            with calls(self._target):
                (hits,) = self._client.search(
                    self._collection,
                    data=[query],
                    limit=wanted,
                    filter=expression,
                    output_fields=["vector"],
                    search_params={"metric_type": "IP"},
                )
            if len(hits) < min(width, count):
                return None
            clear = hits[-1]["distance"] < hits[width - 1]["distance"] - 2 * rounding(self._dim)
            if clear or wanted == count:
                keys = np.array([hit["id"] for hit in hits], np.int64)
                return keys, np.array([hit["entity"]["vector"] for hit in hits], np.float32)
            if wanted == MAX_HITS:
                return None
            wanted = min(count, 2 * wanted, MAX_HITS)
        return None

    def _by_reading_all(
        self, queries: Vectors, limit: int, allowed: ArrayLike | None, forbidden: ArrayLike | None
    ) -> tuple[Ids, Vectors]:
        """For more rows than Milvus returns at once."""
        exact = ExactIndex(self._dim)
        for keys, vectors in self.batches():
            exact.add(keys, vectors)
        return exact.search(queries, limit, allowed=allowed, forbidden=forbidden)

    def batches(self, rows: int = 4096) -> Iterator[Batch]:
        keys = self.ids()
        for start in range(0, len(keys), rows):
            part = keys[start : start + rows]
            with calls(self._target):
                found = self._client.get(self._collection, ids=part.tolist(), output_fields=["vector"])
            at = np.searchsorted(part, [row["id"] for row in found])
            vectors = np.empty((len(part), self._dim), np.float32)
            vectors[at] = [row["vector"] for row in found]
            if len(found) != len(part):
                raise IntegrityError(what="collection", name=self._collection, expected=len(part), found=len(found))
            yield part, vectors

    def _count(self, expression: str) -> int:
        with calls(self._target):
            return int(
                self._client.query(self._collection, filter=expression, output_fields=["count(*)"])[0]["count(*)"]
            )


@dataclass(frozen=True)
class MilvusEngine:
    """One collection of one Milvus: see ``protocol.Engine``."""

    target: MilvusTarget
    collection: str
    kind: str = KIND
    settled: ClassVar[bool] = False

    @classmethod
    def of(cls, options: Mapping[str, Any], root: Path, folder: Path) -> Self:
        return cls(MilvusTarget.from_options(options, root / LOCAL_FILE), collection_name(folder))

    @classmethod
    def kept(cls, options: Mapping[str, Any], root: Path) -> Iterator[Self]:
        """One for every collection of this package: where the options name Milvus, and in its local file."""
        local = MilvusTarget(str(root / LOCAL_FILE))
        named = options.get("kind") == KIND or bool(options.get("url"))
        asked = MilvusTarget.from_options(options, root / LOCAL_FILE) if named else local
        for target in (asked,) if asked.uri == local.uri else (asked, local):
            if target.is_local and not Path(target.uri).exists():
                continue
            client = connect(target)
            with calls(target):
                names = [name for name in client.list_collections() if name.startswith(_PREFIX) and name != STAMPS]
            yield from (cls(target, name) for name in sorted(names))

    def empty(self, dim: int) -> VectorIndex:
        return MilvusIndex.create(self.target, self.collection, dim)

    def open(self) -> tuple[VectorIndex, Stamp] | None:
        return MilvusIndex.attach(self.target, self.collection)

    def mark(self) -> bytes | None:
        return None

    def wait(self) -> bool:
        return False

    def build(self, dim: int, stamp: Stamp, batches: Iterable[Batch]) -> tuple[VectorIndex, Stamp]:
        index = MilvusIndex.create(self.target, self.collection, dim)
        for ids, vectors in batches:
            index.add(ids, vectors)
        stamp = replace(stamp, kind=KIND, size=index.size)
        index.keep(stamp)
        return index, stamp

    def keep(self, index: VectorIndex, stamp: Stamp) -> bool:
        assert isinstance(index, MilvusIndex)
        return index.keep(stamp)

    def optimize(self) -> tuple[int, int] | None:
        return None  # the server compacts in the background

    def drop(self) -> None:
        found = MilvusIndex.attach(self.target, self.collection)
        if found is not None:
            found[0].drop()
            return
        if self.target.is_local and not Path(self.target.uri).exists():
            return
        client = connect(self.target)  # rows without a stamp, of a rebuild that was cut short
        with calls(self.target):
            if client.has_collection(self.collection):
                client.drop_collection(self.collection)


def collection_name(folder: Path) -> str:
    """The collection that stands for a cache folder: Milvus allows letters, digits and underscores."""
    return _PREFIX + "".join(c if c.isascii() and c.isalnum() else "_" for c in folder.name)


def _expression(allowed: ArrayLike | None, forbidden: ArrayLike | None) -> str | None:
    """The filter as Milvus wants it, "" for none; None when nothing may be returned."""
    if allowed is not None:
        keys = np.unique(as_ids(allowed))
        if forbidden is not None:
            keys = np.setdiff1d(keys, as_ids(forbidden))
        return _among(keys) if len(keys) else None
    if forbidden is None or len(as_ids(forbidden)) == 0:
        return ""
    return f"id not in {np.unique(as_ids(forbidden)).tolist()}"


def _among(keys: Ids) -> str:
    return f"id in {keys.tolist()}"
