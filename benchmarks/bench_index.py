"""Exact against FAISS: whole-process cold search, warm search, recall and build, side by side.

    python -m benchmarks.bench_index [--rows 1000 10000 100000] [--dim 1000] [--decay 0 0.5 1] [--json FILE]

A cold search is a fresh process that imports, opens the saved index and answers one query: what ``w2w-reg search``
pays for its index. Files are in the page cache. Times are the best of several runs, since whatever else the machine
does only adds to them, and CPU seconds stand beside the wall's. Rows are Gaussian, component i with standard deviation
i^-decay, and queries lie near a stored row: no clusters, so the hardest case for inverted lists.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from w2w_registry.index import store
from w2w_registry.index.protocol import Batch, Ids, Stamp, VectorIndex, Vectors

QUERIES = 40
BATCH = 10_000
COLD = """
import sys
from pathlib import Path
import numpy as np
from w2w_registry.index import store
index, _ = store.load(Path(sys.argv[1]))
index.search(np.load(sys.argv[2])[int(sys.argv[3])], 10)
"""


def unit(vectors: np.ndarray) -> Vectors:
    """Rows divided by their norms, float32."""
    rows: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return rows


def batches(rows: int, dim: int, decay: float) -> Iterator[Batch]:
    """The stored rows, made anew from the same seed each time, so that memory holds one batch."""
    spread = np.arange(1, dim + 1, dtype=np.float32) ** -decay
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        rng = np.random.default_rng(start)
        yield np.arange(start, start + count), unit(rng.standard_normal((count, dim), np.float32) * spread)


def near(rows: int, dim: int, decay: float) -> Vectors:
    """Queries (QUERIES, dim), each 0.6 of a random direction away from a stored row."""
    _, first = next(batches(rows, dim, decay))
    rng = np.random.default_rng(1)
    away = unit(rng.standard_normal((QUERIES, dim)) * np.arange(1, dim + 1) ** -decay)
    return unit(first[rng.choice(len(first), QUERIES)] + 0.6 * away)


def process(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def best_process(commands: list[list[str]]) -> tuple[float, float]:
    runs = [process(command) for command in commands]
    return min(wall for wall, _ in runs), min(cpu for _, cpu in runs)


def warm(index: VectorIndex, queries: Vectors) -> float:
    """Median over the queries of one query's seconds, best of three, after each has been asked once."""
    index.search(queries, 10)
    times = []
    for query in queries:
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            index.search(query, 10)
            runs.append(time.perf_counter() - start)
        times.append(min(runs))
    return statistics.median(times)


def recall(found: Ids, truth: Ids) -> float:
    return float(np.mean([np.isin(ten, row).mean() for ten, row in zip(truth, found, strict=True)]))


def measure(kind: str, rows: int, dim: int, decay: float, repeats: int, work: Path) -> tuple[dict[str, Any], Ids]:
    folder = work / kind
    queries = near(rows, dim, decay)
    np.save(work / "queries.npy", queries)
    start = time.perf_counter()
    store.build(folder, kind, dim, Stamp("space", "metric", 0, "", 0), batches(rows, dim, decay))
    build = time.perf_counter() - start
    command = [sys.executable, "-c", COLD, str(folder), str(work / "queries.npy")]
    cold, cpu = best_process([[*command, str(i % QUERIES)] for i in range(repeats)])
    loaded = store.load(folder)
    assert loaded is not None
    index, _ = loaded
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    figures = {"build_s": build, "cold_s": cold, "cpu_s": cpu, "warm_ms": 1e3 * warm(index, queries), "mb": size / 1e6}
    return figures, index.search(queries, 10)[0]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--dim", type=int, default=1000)
    parser.add_argument("--decay", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--repeats", type=int, default=7, help="cold processes per figure")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    empty, _ = best_process([[sys.executable, "-c", "import numpy"]] * asked.repeats)
    print(f"python and numpy alone: {empty:.3f} s; dim {asked.dim}; ratio = faiss ÷ exact\n")
    print(
        "| rows | decay | cold s: exact | faiss | ratio | cold CPU s: exact | faiss | ratio "
        "| warm ms: exact | faiss | ratio | recall@10 | build s | MB |"
    )
    print("| --- " * 14 + "|")
    results = []
    for rows in asked.rows:
        for decay in asked.decay:
            with tempfile.TemporaryDirectory() as work:
                exact, truth = measure("exact", rows, asked.dim, decay, asked.repeats, Path(work))
                faiss, found = measure("faiss", rows, asked.dim, decay, asked.repeats, Path(work))
            hit = recall(found, truth)
            pairs = " | ".join(
                f"{exact[name]:.{digits}f} | {faiss[name]:.{digits}f} | {faiss[name] / exact[name]:.2f}"
                for name, digits in (("cold_s", 3), ("cpu_s", 3), ("warm_ms", 2))
            )
            both = " | ".join(f"{exact[name]:.0f} / {faiss[name]:.0f}" for name in ("build_s", "mb"))
            print(f"| {rows} | {decay:g} | {pairs} | {hit:.3f} | {both} |", flush=True)
            results.append({"rows": rows, "decay": decay, "exact": exact, "faiss": faiss, "recall_at_10": hit})
    if asked.json:
        asked.json.write_text(json.dumps({"dim": asked.dim, "numpy_s": empty, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
