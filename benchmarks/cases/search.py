"""One query at a time, one thread: the index that ``w2w-reg search`` opens against FAISS Flat."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.cases._vectors import DEFAULT_DECAY, PAPER_DECAY, batches, near
from benchmarks.frame import Row, side_by_side
from w2w_registry.index import store
from w2w_registry.index.protocol import Stamp

DIM = 1000
QUERIES = 20


def rows(small: bool) -> Iterator[Row]:
    for count in (20_000,) if small else (100_000,):
        for decay in (DEFAULT_DECAY, PAPER_DECAY):
            yield compare(count, decay)


def compare(count: int, decay: float) -> Row:
    import faiss

    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        index, _ = store.build(
            Path(folder) / "index", "faiss", DIM, Stamp("space", "metric", 0, "", 0), batches(count, DIM, decay)
        )
        flat = faiss.IndexFlatIP(DIM)
        for _, block in batches(count, DIM, decay):
            flat.add(block)
        first = next(batches(count, DIM, decay))[1]
        queries = near(first, decay, QUERIES)
        truth = flat.search(queries, 10)[1]
        found = np.vstack([index.search(query, 10)[0] for query in queries])

        def ask(one: object) -> None:
            for query in queries:
                one(query[None], 10)  # type: ignore[operator]

        ours, peer = side_by_side(lambda: ask(index.search), lambda: ask(flat.search))
    hits = np.mean([np.isin(ten, row).mean() for ten, row in zip(truth, found, strict=True)])
    quality = {"recall@10": float(hits), "recall@1": float((truth[:, 0] == found[:, 0]).mean())}
    size = {"rows": count, "dim": DIM, "decay": decay, "threads": 1}
    return Row("single query", ours / QUERIES, peer / QUERIES, "FAISS Flat", quality, size)
