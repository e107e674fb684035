"""A search by what is drawn in a large registry: the gallery kept as it is compared, against reading and learning anew.

The fingerprints are random numbers with a falling spectrum: what is measured is the work, not who is found.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.cases.recording import opened, peak, rate
from benchmarks.frame import Row, held
from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.fingerprints import Asked
from w2w_registry.diffusion.fingerprint import PROBES, WIDTH
from w2w_registry.services.recording.fingerprints import Prober, keep
from w2w_registry.services.recording.gallery import Gallery, open_answered, open_gallery
from w2w_registry.services.registry import Registry

PROBER = Prober(None, "0" * 64, f"{PROBES} a stand-in for a base model")  # type: ignore[arg-type]
AT_ONCE = 2_000


def rows(small: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        registry = opened(f"sqlite:///{folder}/catalog.db", Path(folder) / "home")
        count = 5_000 if small else 50_000
        rate(registry, count, "drawn-")
        count = fingerprinted(registry)
        size = {"unit": "CPU s", "people": count, "floats": WIDTH}
        with registry.catalog.read() as session:
            asked = Asked(PROBER.base, PROBER.question, count)
            first = searched(lambda: open_gallery(registry, session, asked))
            kept = searched(lambda: open_gallery(registry, session, asked))
            kept_peak = peak()
            anew = searched(lambda: open_answered(session, asked).gallery)
        quality = {"first time": first, "peak MB": kept_peak, "peak MB anew": peak()}
        quality["asked"] = held({"≥ 10x": anew >= 10 * kept})
        yield Row("a search among fingerprints", kept, anew, "read and learned from anew", quality, size)
        registry.catalog.close()


def fingerprinted(registry: Registry) -> int:
    """Give everybody a fingerprint; how many they are."""
    with registry.catalog.read() as session:
        ids = stored.probable(session)
    rng, scale = np.random.default_rng(0), np.linspace(3, 0.1, WIDTH).astype(np.float32)
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        keep(registry, PROBER, part, rng.standard_normal((len(part), WIDTH), dtype=np.float32) * scale)
    return len(ids)


def searched(gallery: Callable[[], Gallery]) -> float:
    """CPU seconds from nothing to a verdict on everybody."""
    start = time.process_time()
    gallery().verdicts(np.ones((1, WIDTH), np.float32))
    return time.process_time() - start
