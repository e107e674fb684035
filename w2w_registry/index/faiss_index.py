"""Approximate search of large bases with FAISS: IVF over a prefix of the components, then the exact vectors decide.

A base of at least ``IVF_ROWS`` rows gets inverted lists over its leading components (those that hold most of the
energy), 8 bits per component. A query reads the codes of ``nprobe`` lists, and the best few hundred candidates are
scored from their whole vectors, so scores are exact and only a neighbour whose list was not read is missed. How many
candidates to take and how many lists to read is not guessed: after training, both are doubled until sample queries
find ``TARGET_RECALL`` of the nearest rows, and of the ten nearest, that the exact search finds. At worst every list is
read, which still is a quarter of the bytes of the exact kind's filter. A base whose spectrum is too flat for a prefix
gets no lists and is searched exactly: on such data lists found half of the ten nearest at a fifth of the lists read
(measured, 100,000 × 1,000).

The lists are memory-mapped, so a cold process reads those it probes. Removed, blocked and filtered rows are masked by
an id selector; changes since the last save live in the tail, searched exactly. Graph indexes (HNSW) are not used: they
cannot drop rows.

With faiss-gpu and a card, a process that goes on searching keeps half-precision vectors on it (``GPU_AFTER``). GPU
indexes take no id selectors, so more candidates are asked for and filtered here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError, MissingExtra
from w2w_registry.index.exact import ExactIndex, leading, prefix_width, read_prefix, write_prefix
from w2w_registry.index.protocol import Batch, Ids, Vectors
from w2w_registry.index.rows import Files, Rows, read_rows, write_rows, written
from w2w_registry.index.vectors import contenders

KIND = "faiss"
IVF_ROWS = 20_000  # a scan of so many rows takes a few milliseconds
CANDIDATES = 256
TARGET_RECALL = 0.99
FEW_ROWS = 4096  # so few eligible rows are read one by one
GPU_AFTER = 32  # queries in one process before the vectors are copied to the card
GPU_MAX_CANDIDATES = 2048  # what GPU indexes can return
_TRAIN_PER_LIST = 64
_SAMPLE = 200


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise MissingExtra(package="faiss", extra="cpu", feature="the faiss index") from None
    module: ModuleType = faiss
    return module


class Coarse:
    """Inverted lists over the first ``width`` components of the base rows, named by row number; how many lists a query
    reads (``nprobe``) and how many candidates it takes from them (``wanted``)."""

    def __init__(self, lists: Any, nprobe: int, wanted: int) -> None:
        self.lists, self.nprobe, self.wanted = lists, nprobe, wanted

    @property
    def width(self) -> int:
        return int(self.lists.d)

    def candidates(
        self, queries: Vectors, wanted: int, rows: NDArray[np.int64] | None, count: int
    ) -> list[NDArray[np.int64]]:
        """For each query, row numbers of likely neighbours among ``rows`` (None = all of the ``count`` there are)."""
        faiss = _faiss()
        params = faiss.SearchParametersIVF(nprobe=self.nprobe)
        if rows is not None:
            mask = np.zeros(count, bool)
            mask[rows] = True
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            # Fewer rows pass, so the same number of neighbours lies in more lists.
            nprobe = min(int(self.lists.nlist), -(-self.nprobe * count // max(1, len(rows))))
            params = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
        heads = np.ascontiguousarray(queries[:, : self.width])
        _, found = self.lists.search(heads, min(wanted, count), params=params)
        return [row[(row >= 0) & (row < count)] for row in found]


class FaissIndex(ExactIndex):
    """May miss a neighbour of a large base, about one in a hundred; scores are exact.

    Raises:
        MissingExtra: faiss is not installed.
    """

    kind = KIND

    def __init__(self, dim: int, base: Rows | None = None, coarse: Coarse | None = None) -> None:
        super().__init__(dim, base)
        self._faiss = _faiss()
        self._coarse = coarse
        self._asked = 0
        self._gpu: Any = None

    @property
    def nprobe(self) -> int | None:
        """Lists read per query, or None where the base is searched exactly."""
        return None if self._coarse is None else self._coarse.nprobe

    @classmethod
    def write(cls, folder: Path, dim: int, batches: Iterable[Batch]) -> int:
        faiss = _faiss()
        count, energy = write_rows(folder, dim, batches)
        coarse = train(folder, dim, energy)
        # with lists there is no need for the exact kind's filter
        write_prefix(folder, dim, 0 if coarse else prefix_width(energy, count))
        plan = {"nprobe": coarse.nprobe, "wanted": coarse.wanted} if coarse else None
        (folder / "coarse.json").write_text(json.dumps(plan))
        if coarse is not None:
            faiss.write_index(coarse.lists, str(folder / "coarse.faiss"))
        return count

    @classmethod
    def load(cls, folder: Path, files: Files, dim: int, *, unchecked: bool) -> Self:
        faiss = _faiss()
        base = read_rows(files, dim, unchecked=unchecked)
        plan = json.loads(files["coarse.json"].tobytes())
        coarse = None
        if plan is not None:
            try:
                lists = faiss.read_index(str(folder / "coarse.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            except RuntimeError as error:
                raise IntegrityError(
                    what="index file", name="coarse.faiss", expected="a FAISS index", found=str(error)
                ) from None
            # Its prefetching starts threads for every query: ten times the time of reading what one query needs.
            faiss.downcast_InvertedLists(lists.invlists).prefetch_nthread = 0
            coarse = Coarse(lists, **plan)
        index = cls(dim, base, coarse)
        index._prefix = read_prefix(files, len(base))
        return index

    def _search_base(self, queries: Vectors, limit: int, rows: NDArray[np.int64] | None) -> list[tuple[Ids, Vectors]]:
        count = len(self._base)
        eligible = count if rows is None else len(rows)
        self._asked += len(queries)
        wanted = max(CANDIDATES if self._coarse is None else self._coarse.wanted, 4 * limit)
        if eligible <= max(FEW_ROWS, 2 * wanted):
            return super()._search_base(queries, limit, rows)
        if self._on_gpu():
            proposals = self._gpu_candidates(queries, wanted, rows)
        elif self._coarse is not None:
            proposals = self._coarse.candidates(queries, wanted, rows, count)
        else:
            return super()._search_base(queries, limit, rows)
        return [
            self._decide(query, places[contenders(self._products(places, query), limit, self._dim)], limit)
            if len(places) >= limit
            else super(FaissIndex, self)._search_base(query[None], limit, rows)[0]
            for query, places in zip(queries, proposals, strict=True)
        ]

    def _on_gpu(self) -> bool:
        if self._gpu is None and self._asked >= GPU_AFTER and len(self._base):
            self._gpu = False  # tried once
            if self._faiss.get_num_gpus() > 0:
                try:
                    self._gpu = _gpu_flat(self._faiss, self._dim)
                    for _, block in self._base.blocks():
                        self._gpu.add(block)
                except RuntimeError:  # the card's memory is too small or taken: the CPU answers
                    self._gpu = False
        return self._gpu is not None and self._gpu is not False

    def _gpu_candidates(self, queries: Vectors, wanted: int, rows: NDArray[np.int64] | None) -> list[NDArray[np.int64]]:
        count = len(self._base)
        share = 1 if rows is None else count / len(rows)
        _, found = self._gpu.search(queries, min(count, GPU_MAX_CANDIDATES, int(wanted * share)))
        if rows is None:
            return [row[row >= 0] for row in found]
        mask = np.zeros(count, bool)
        mask[rows] = True
        return [row[(row >= 0) & mask[row]] for row in found]


def _gpu_flat(faiss: ModuleType, dim: int) -> Any:
    """An empty half-precision inner-product index on the first card."""
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    return faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), dim, config)


def train(folder: Path, dim: int, energy: NDArray[np.float64]) -> Coarse | None:
    """Inverted lists for the rows in ``vectors.f32``; None for few rows, a flat spectrum, or lists that miss too much.

    2√n lists trained on 64 rows each are a sixteenth of the work of 4√n lists on 256 rows each; what recall that costs,
    the calibration makes up for with more probes.
    """
    faiss = _faiss()
    vectors = written(folder, dim)
    count = len(vectors)
    if count < IVF_ROWS or not energy.any() or 2 * leading(energy) > dim:
        return None
    width = min(dim, max(64, leading(energy)))
    nlist = int(2 * np.sqrt(count))
    lists = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, nlist, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    lists.cp.spherical = True
    lists.cp.niter = 8
    lists.cp.max_points_per_centroid = _TRAIN_PER_LIST
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(count, min(count, nlist * _TRAIN_PER_LIST), replace=False))
    lists.train(np.ascontiguousarray(vectors[sample, :width]))
    for start in range(0, count, 65_536):
        lists.add(np.ascontiguousarray(vectors[start : start + 65_536, :width]))
    return calibrate(lists, vectors, rng)


def calibrate(lists: Any, vectors: Vectors, rng: np.random.Generator) -> Coarse | None:
    """``lists`` with as few candidates, and then as few probes, as reach ``TARGET_RECALL``, found by doubling.

    None when even eight times ``CANDIDATES`` from every list do not.
    Sample queries are stored rows pulled half-way to another row: near one, as a retrained LoRA is, and not stored.
    """
    count, dim = vectors.shape
    pairs = rng.choice(count, (2, _SAMPLE))
    queries = vectors[pairs[0]] + 0.5 * vectors[pairs[1]]
    queries = (queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1.0)).astype(np.float32)
    exact = ExactIndex(dim, Rows(np.arange(count), vectors))
    truth, _ = exact.search(queries, 10)

    def reaches(coarse: Coarse) -> bool:
        found = coarse.candidates(queries, coarse.wanted, None, count)
        hits = np.stack([np.isin(ten, places) for ten, places in zip(truth, found, strict=True)])
        return bool(min(hits[:, 0].mean(), hits.mean()) >= TARGET_RECALL)

    nlist = int(lists.nlist)
    for wanted in (CANDIDATES << step for step in range(4)):
        if reaches(Coarse(lists, nlist, wanted)):
            probes = (min(nlist, 4 << step) for step in range(nlist.bit_length()))
            return next(coarse for n in probes if reaches(coarse := Coarse(lists, n, wanted)))
    return None
