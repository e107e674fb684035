"""Fitting a weight space: against scikit-learn and torch at equal captured variance, the products alone, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.frame import Row
from w2w_registry.space.fit import Fit, fit
from w2w_registry.space.layout import Layout, layout_of

_DECAY = 0.53  # component i has a standard deviation of i^-.53, as in the paper's space
_NOISE = 0.05


def rows(small: bool) -> Iterator[Row]:
    n, dim, k = (600, 4_000, 100) if small else asked()
    warm()
    data, layout = made(n, dim), layout_for(dim)
    ours, taken = timed(lambda: fit(data, layout, base_model="bench", components=k, fit_set_digest="0" * 64))
    z = (data - ours.space.mean) / ours.space.std
    exact = best(z, k)
    share = captured(z, ours.space.components) / exact
    size = {"unit": "CPU s", "LoRAs": n, "parameters": dim, "components": k}
    quality = {"captured of exact": share, "route": ours.report.method, "residual": ours.report.residual}
    yield products(ours, z, k, taken, quality, size)
    for name, peer in PEERS:
        components, seconds = timed(lambda peer=peer: peer(z, k))
        reached = {"captured of exact": share, "peer's": captured(z, components) / exact}
        yield Row("fit", taken, seconds, name, reached, size)
    yield streamed(n, dim, k)


def asked() -> tuple[int, int, int]:
    """LoRAs, parameters and components: ``BENCH_FIT=20000x20000x500``, say, in place of the size that is usual."""
    n, dim, k = os.environ.get("BENCH_FIT", "4000x20000x400").split("x")
    return int(n), int(dim), int(k)


def warm() -> None:
    """Each once on little: what is imported on the way is nobody's time."""
    few = made(60, 64)
    fit(few, layout_for(64), base_model="bench", components=2)
    for _, peer in PEERS:
        peer(few, 2)


def products(ours: Fit, z: NDArray[Any], k: int, taken: float, quality: dict[str, Any], size: dict[str, Any]) -> Row:
    """Against one float32 Gram product and one product for the components, which nothing gets round."""
    turn = np.ones((len(z), k), np.float32)
    _, alone = timed(lambda: (z @ z.T, z.T @ turn))
    return Row("fit", taken, alone, "the products it cannot avoid", quality, size)


def streamed(n: int, dim: int, k: int) -> Row:
    """Peak memory of a process that fits from a file, above what it had before, against the file's size."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        path = Path(folder) / "thetas.f32"
        np.memmap(path, "<f4", "w+", shape=(n, dim))[:] = made(n, dim)
        command = [sys.executable, "-m", "benchmarks.cases.fit", str(path), str(n), str(dim), str(k)]
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout
    grown, seconds, route = out.split()
    size = {"unit": "MB", "LoRAs": n, "parameters": dim, "components": k}
    quality = {"CPU s": float(seconds), "route": route}
    return Row("fit from a file, peak memory", float(grown) / 1e6, 4 * n * dim / 1e6, "the data", quality, size)


# Seven iterations each, which is what scikit-learn chooses here; what they reach stands in the row.
def randomized_pca(z: NDArray[Any], k: int) -> NDArray[Any]:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(k, svd_solver="randomized", iterated_power=7, random_state=0).fit(z).components_.T)


def pca_lowrank(z: NDArray[Any], k: int) -> NDArray[Any]:
    import torch

    return np.asarray(torch.pca_lowrank(torch.from_numpy(z), k, center=False, niter=7)[2])


def incremental_pca(z: NDArray[Any], k: int) -> NDArray[Any]:
    from sklearn.decomposition import IncrementalPCA

    return np.asarray(IncrementalPCA(k, batch_size=2 * k).fit(z).components_.T)


PEERS = (
    ("sklearn randomized PCA", randomized_pca),
    ("torch.pca_lowrank", pca_lowrank),
    ("sklearn IncrementalPCA", incremental_pca),
)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives, and the CPU seconds of this process it took."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def captured(z: NDArray[Any], components: NDArray[Any]) -> float:
    """Energy of z along components (D, k), made orthonormal first."""
    axes, _ = np.linalg.qr(components)
    return float(np.sum((z @ axes).astype(np.float64) ** 2))


def best(z: NDArray[Any], k: int) -> float:
    """Energy of z along its k leading components, of a Gram matrix in float64: nobody captures more."""
    from scipy.sparse.linalg import eigsh

    total = np.zeros((len(z), len(z)))
    for first in range(0, z.shape[1], 1_000):
        piece = z[:, first : first + 1_000].astype(np.float64)
        for top in range(0, len(z), 2_000):
            total[top : top + 2_000] += piece[top : top + 2_000] @ piece.T
    return float(eigsh(total, k, return_eigenvectors=False).sum())


def made(n: int, dim: int) -> NDArray[np.float32]:
    """θ (n, dim) whose components fall as the paper's do, over a floor of noise."""
    rng = np.random.default_rng(0)
    rank = min(n, dim, 2_000)
    spread = np.arange(1, rank + 1, dtype=np.float32) ** np.float32(-_DECAY)
    where = rng.standard_normal((n, rank), np.float32) * spread
    noise = np.float32(_NOISE) * rng.standard_normal((n, dim), np.float32)
    return np.asarray(where @ rng.standard_normal((rank, dim), np.float32) + noise)


def layout_for(dim: int) -> Layout:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    return layout_of({(name, "A"): (1, dim // 2), (name, "B"): (dim - dim // 2, 1)}, 1.0)


def peak_memory() -> int:
    """Bytes that this process has held in memory at most, mapped files included (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main(path: str, n: str, dim: str, k: str) -> None:
    """In a process of its own: fit from a file; print how far memory grew (bytes), CPU seconds and the route."""
    held = Path(path).parent
    shape = int(n), int(dim)

    def scratch(wanted: tuple[int, ...]) -> NDArray[np.float32]:
        return np.memmap(held / "components.f32", "<f4", "w+", shape=wanted)

    fit(made(60, 64), layout_for(64), base_model="bench", components=2)  # what is imported on the way is not counted
    before = peak_memory()
    thetas = np.memmap(path, "<f4", "r", shape=shape)
    found, seconds = timed(
        lambda: fit(
            thetas,
            layout_for(shape[1]),
            base_model="bench",
            components=int(k),
            fit_set_digest="0" * 64,
            memory=thetas.nbytes // 8,
            scratch=scratch,
        )
    )
    print(peak_memory() - before, round(seconds, 2), found.report.method)


if __name__ == "__main__":
    main(*sys.argv[1:])
