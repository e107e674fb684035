"""One query at a time against FAISS Flat: nearest, under filters, proven above a threshold; building and adding."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases._vectors import DEFAULT_DECAY, PAPER_DECAY, batches, near, strangers, unit
from benchmarks.frame import Row, side_by_side
from w2w_registry.index import store
from w2w_registry.index.protocol import Ids, Stamp, VectorIndex, Vectors

DIM = 1000
QUERIES = 40
PROOFS = 500
THRESHOLDS = {DEFAULT_DECAY: 0.36, PAPER_DECAY: 0.7}  # about where a gallery's verdict lies under each spectrum
SHARES = (0.5, 0.05, 0.005)
STAMP = Stamp("space", "metric", 0, "", 0)


def rows(small: bool) -> Iterator[Row]:
    for count, decay in ((20_000, DEFAULT_DECAY),) if small else (
        (100_000, DEFAULT_DECAY), (100_000, PAPER_DECAY), (1_000_000, DEFAULT_DECAY),
    ):  # fmt: skip
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
            yield from compare(Path(folder), count, decay)


def compare(folder: Path, count: int, decay: float) -> Iterator[Row]:
    import faiss

    faiss.omp_set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    size = {"rows": count, "dim": DIM, "decay": decay, "threads": 1}
    start, used = time.perf_counter(), time.process_time()
    store.build(folder, "faiss", DIM, STAMP, batches(count, DIM, decay))
    start, used = time.perf_counter() - start, time.process_time() - used
    plain = time.process_time()
    flat = faiss.IndexFlatIP(DIM)
    for _, block in batches(count, DIM, decay):
        flat.add(block)
    plain = time.process_time() - plain
    yield Row("build", used, None, "", {"wall s": start, "of which making the data, and Flat": plain}, size)
    first = next(batches(count, DIM, decay))[1]
    queries = near(first, decay, QUERIES if count <= 100_000 else QUERIES // 3)
    yield from nearest(folder, flat, queries, size)
    index = opened(folder)
    yield from filtered(index, queries, count, size)
    yield proofs(index, flat, decay, first, size)
    if count <= 100_000:
        yield shifted(folder, decay, size)


def opened(folder: Path) -> VectorIndex:
    found = store.load(folder)
    assert found is not None
    return found[0]


def each(ask: Callable[..., object], queries: Vectors) -> None:
    for query in queries:
        ask(query[None], 10)


def nearest(folder: Path, flat: Any, queries: Vectors, size: dict[str, Any]) -> Iterator[Row]:
    import faiss

    truth = flat.search(queries, 10)[1]
    for threads in (1, 2):
        os.environ["OMP_NUM_THREADS"] = str(threads)
        index = opened(folder)
        found = np.vstack([index.search(query, 10)[0] for query in queries])
        faiss.omp_set_num_threads(1)
        ours, peer = side_by_side(lambda: each(index.search, queries), lambda: each(flat.search, queries))  # noqa: B023
        quality = {
            "recall@10": recall(found, truth),
            "recall@1": float((truth[:, 0] == found[:, 0]).mean()),
            "codes in memory MB": sum(s.coarse.resident_bytes for s in index.segments) / 1e6,  # type: ignore[attr-defined]
        }
        yield Row(
            "single query", ours / len(queries), peer / len(queries), "FAISS Flat, one thread", quality,
            {**size, "threads": threads},
        )  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = "1"


def recall(found: Ids, truth: Ids) -> float:
    return float(np.mean([np.isin(ten, row).mean() for ten, row in zip(truth, found, strict=True)]))


def filtered(index: VectorIndex, queries: Vectors, count: int, size: dict[str, Any]) -> Iterator[Row]:
    for share in SHARES:
        allowed = np.flatnonzero(np.random.default_rng(7).random(count) < share)
        truth = index.search(queries, 10, allowed=allowed, exact=True)[0]
        found = np.vstack([index.search(query, 10, allowed=allowed)[0] for query in queries])
        ours, peer = side_by_side(
            lambda: [index.search(query, 10, allowed=allowed) for query in queries],  # noqa: B023
            lambda: [index.search(query, 10) for query in queries],
        )
        yield Row(
            "filtered query", ours / len(queries), peer / len(queries), "the same unfiltered",
            {"recall@10": recall(found, truth)}, {**size, "share": share},
        )  # fmt: skip


def proofs(index: VectorIndex, flat: Any, decay: float, first: Vectors, size: dict[str, Any]) -> Row:
    """Half planted copies (re-noised to .86), half strangers; the peer scores every row."""
    count = PROOFS if size["rows"] <= 100_000 else PROOFS // 20
    asked = np.concatenate([near(first, decay, count // 2, seed=5), strangers(DIM, decay, count - count // 2)])
    threshold = THRESHOLDS[decay]
    ours = peer = 0.0
    wrong = 0
    for query in asked:
        start = time.perf_counter()
        (found,) = index.above(query, threshold)
        middle = time.perf_counter()
        scores, ids = flat.search(query[None], 10)
        end = time.perf_counter()
        ours, peer = ours + middle - start, peer + end - middle
        true = ids[0][scores[0] >= threshold]
        wrong += set(true.tolist()) != set(found[0].tolist()[:10])
    return Row(
        "certified verdict", ours / count, peer / count, "FAISS Flat, one thread", {"wrong": wrong, "of": count},
        {**size, "threshold": threshold},
    )  # fmt: skip


def shifted(folder: Path, decay: float, size: dict[str, Any]) -> Row:
    """20,000 rows of another centre and spectrum added, against an index built of all rows at once."""
    rng = np.random.default_rng(8)
    more = 20_000
    rows = unit(rng.standard_normal((more, DIM), np.float32) * np.arange(1, DIM + 1, dtype=np.float32) ** -0.6 + 0.05)
    index = opened(folder)
    before = int(index.ids()[-1]) + 1
    used = time.process_time()
    index.add(np.arange(before, before + more), rows)
    store.save(folder, index, STAMP)
    used = time.process_time() - used
    index = opened(folder)
    queries = near(rows, 0.6, QUERIES, seed=9)
    found = index.search(queries, 10)[0]
    truth = index.search(queries, 10, exact=True)[0]
    rebuilt = folder / "rebuilt"
    cost = time.process_time()
    other, _ = store.build(rebuilt, "faiss", DIM, STAMP, index.batches())
    cost = time.process_time() - cost
    again = other.search(queries, 10)[0]
    quality = {"recall@10": recall(found, truth), "rebuilt": recall(again, truth)}
    return Row("20,000 rows of another distribution added", used, cost, "building anew", quality, size)
