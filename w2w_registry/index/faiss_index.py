"""Search of large bases with FAISS: short codes find candidates, the stored vectors decide.

Every row has a coarse code of about a quarter of a byte a component (``codes``). A query is rotated as the rows were,
the fast scan proposes the ``CANDIDATES`` best rows by their codes, and these are scored from their stored vectors: so
scores are exact, and only a neighbour whose code looked much worse than it is can be missed. Nothing is trained, no
spectrum is assumed. Measured at 10⁵ and 10⁶ rows of 1,000 components: docs/benchmarks.md.

The scan takes no filters. A few eligible rows are scored outright; for more, so many candidates are taken that enough
of them can be expected to be eligible, and more where they are not. Rows added since the last save are searched
exactly.

``above`` proves: the fine codes bound every score from above, so that a row whose bound lies below the threshold need
not be read. What is left is read, and the answer is that of reading every row.

With faiss-gpu and a card, a process that goes on searching keeps half-precision vectors on it (``GPU_AFTER``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError
from w2w_registry.index.codes import COARSE, FINE, CodeWriter, Quantiser, Rotation
from w2w_registry.index.exact import ExactIndex, decide, reaching
from w2w_registry.index.faiss_scan import Scan, faiss, threads, understands
from w2w_registry.index.protocol import Batch, Vectors
from w2w_registry.index.rows import Files, Rows, read_rows, write_rows
from w2w_registry.index.segments import Found, Segment
from w2w_registry.index.vectors import MAX_NORM, contenders

KIND = "faiss"
SCAN_ROWS = 8192  # fewer rows are read outright in a few milliseconds
MIN_DIM = 32  # narrower rows are hardly longer than their codes
CANDIDATES = 200
FEW_ROWS, FEW_SHARE = 4096, 33  # eligible rows scored outright: so many, or this part of all
MARGIN, SPARE = 1.15, 50  # candidates asked for under a filter, beyond what its share suggests
KEPT = 1 - 0.1108  # of a vector's squared norm that its coarse code keeps: an estimate is so much of the score,
SURE = 2.0  # and its error Gaussian; rows that may be better by so many deviations are asked for
FIRST_PROOF, MOST_PROOF = 64, 16_384
LOOSE = 64  # rows coded worst, always read by ``above``, so that the others' bound is close
GPU_AFTER = 32  # queries in one process before the vectors are copied to the card
GPU_MAX_CANDIDATES = 2048  # what GPU indexes can return


class FaissSegment(Segment):
    """Rows with their codes: ``coarse`` and ``fine`` scans, and how far a fine code is from its row (n,)."""

    def __init__(self, rows: Rows, coarse: Scan, fine: Scan, errors: Vectors) -> None:
        super().__init__(rows)
        self.coarse, self.fine, self.errors = coarse, fine, errors
        self.rotate = Rotation(rows.dim)
        self.noise = np.float32(np.sqrt((1 - KEPT) / self.rotate.width) / KEPT)
        self.gpu: Any = None
        self._loose: tuple[NDArray[np.int64], np.float32] | None = None

    def loose(self) -> tuple[NDArray[np.int64], np.float32]:
        """The rows coded worst, and the largest error of all others."""
        if self._loose is None:
            kept = max(0, len(self.errors) - LOOSE - 1)
            most = np.partition(self.errors, kept)[kept]
            self._loose = np.flatnonzero(self.errors > most), np.float32(most)
        return self._loose


class FaissIndex(ExactIndex):
    """May miss a neighbour of a large base, fewer than one in a hundred; scores are exact.

    Raises:
        MissingExtra: faiss is not installed.
    """

    kind = KIND

    def __init__(self, dim: int, segments: Sequence[Any] = ()) -> None:
        super().__init__(dim, segments)
        self._faiss = faiss()
        self._asked = 0

    @property
    def exhaustive(self) -> bool:
        return not any(_scanned(segment, COARSE) for segment in self.segments)

    @classmethod
    def write(cls, folder: Path, dim: int, batches: Iterable[Batch]) -> int:
        writer = CodeWriter(folder, dim if dim >= MIN_DIM else None)
        try:
            return write_rows(folder, dim, batches, writer.add)
        finally:
            writer.close()

    @classmethod
    def load(cls, folder: Path, files: Files, dim: int, *, unchecked: bool) -> Segment:
        rows = read_rows(files, dim, unchecked=unchecked)
        if dim < MIN_DIM or len(rows) < SCAN_ROWS:
            return Segment(rows)
        errors = files["errors.f32"].view("<f4").astype(np.float32, copy=False)
        if len(errors) != len(rows):
            raise IntegrityError(what="index codes", name="errors.f32", expected=len(rows), found=len(errors))
        scans = [_open(folder, files, len(rows), Rotation(dim).width, quantiser) for quantiser in (COARSE, FINE)]
        return FaissSegment(rows, scans[0], scans[1], errors)

    # -- the nearest -----------------------------------------------------------------------------
    def _search_segment(
        self, segment: Segment, queries: Vectors, limit: int, rows: NDArray[np.int64] | None, *, exact: bool
    ) -> Found:
        count = len(segment.rows)
        eligible = count if rows is None else len(rows)
        wanted = max(CANDIDATES, 4 * limit)
        few = max(FEW_ROWS, count // FEW_SHARE, 2 * wanted)
        if exact or eligible <= few or not _scanned(segment, COARSE):
            return super()._search_segment(segment, queries, limit, rows, exact=exact)
        assert isinstance(segment, FaissSegment)
        self._asked += len(queries)
        mask = None
        if rows is not None:
            mask = np.zeros(count, bool)
            mask[rows] = True
        ask = wanted if mask is None else min(count, int(MARGIN * wanted * count / eligible) + SPARE)
        on_gpu = self._on_gpu(segment)
        if on_gpu:
            estimates, proposals = _gpu_candidates(segment, queries, ask)
        else:
            estimates, proposals, _ = segment.coarse.top(segment.rotate(queries), ask)
        found: Found = []
        for query, *first in zip(queries, estimates, proposals, strict=True):
            answer = self._answer(segment, query, (first[0], first[1]), mask, limit, wanted, certain=on_gpu)
            found += [answer] if answer else super()._search_segment(segment, query[None], limit, rows, exact=True)
        return found

    def _answer(
        self,
        segment: FaissSegment,
        query: Vectors,
        proposed: tuple[Vectors, NDArray[np.int64]],
        mask: NDArray[np.bool_] | None,
        limit: int,
        wanted: int,
        *,
        certain: bool,
    ) -> Batch | None:
        """The best ``limit`` of the first ``wanted`` eligible candidates, after asking for more where a filter leaves
        too few, or where the next candidate may be as good as the worst of the answer; None when reading every
        eligible row is no dearer. ``certain``: the estimates need no such allowance."""
        estimates, places = proposed
        while True:
            usable = places >= 0 if mask is None else (places >= 0) & mask[places]
            at = np.flatnonzero(usable)[:wanted]
            if len(at) >= wanted // 2:
                chosen = np.sort(places[at])
                # What is returned is verified by ``decide``; a damaged row that looks worse than it is would be missed.
                near = contenders(segment.rows.take(chosen, checked=False) @ query, limit, self._dim)
                ids, scores = decide(segment.rows, query, chosen[near], limit)
                if certain or estimates[at[-1]] / KEPT + SURE * segment.noise <= scores[-1]:
                    return ids, scores
                wanted *= 4
            asked = 4 * len(places)
            if certain or asked * 8 > len(segment.rows):
                return None
            (estimates,), (places,), _ = segment.coarse.top(segment.rotate(query[None]), asked)

    # -- everyone above a threshold --------------------------------------------------------------
    def _segment_above(
        self, segment: Segment, queries: Vectors, threshold: np.float32, rows: NDArray[np.int64] | None
    ) -> Found:
        few = max(FEW_ROWS, len(segment.rows) // FEW_SHARE)
        if (rows is not None and len(rows) <= few) or not _scanned(segment, FINE):
            return super()._segment_above(segment, queries, threshold, rows)
        assert isinstance(segment, FaissSegment)
        mask = None
        if rows is not None:
            mask = np.zeros(len(segment.rows), bool)
            mask[rows] = True
        rotated = segment.rotate(queries)
        estimates, places, slack = segment.fine.top(rotated, FIRST_PROOF, checked=True)
        found: Found = []
        for i, query in enumerate(queries):
            chosen = _not_excluded(segment, rotated[i : i + 1], threshold, estimates[i], places[i], slack[i])
            if chosen is None:
                found += super()._segment_above(segment, query[None], threshold, rows)
                continue
            found.append(reaching(segment.rows, query, chosen if mask is None else chosen[mask[chosen]], threshold))
        return found

    # -- the card --------------------------------------------------------------------------------
    def _on_gpu(self, segment: FaissSegment) -> bool:
        if segment.gpu is None and self._asked >= GPU_AFTER:
            segment.gpu = False  # tried once
            if self._faiss.get_num_gpus() > 0:
                try:
                    segment.gpu = _gpu_flat(self._faiss, self._dim)
                    for _, block in segment.rows.blocks():
                        segment.gpu.add(block)
                except RuntimeError:  # the card's memory is too small or taken: the CPU answers
                    segment.gpu = False
        return segment.gpu is not None and segment.gpu is not False


def _not_excluded(
    segment: FaissSegment,
    rotated: Vectors,
    threshold: np.float32,
    estimates: Vectors,
    places: NDArray[np.int64],
    slack: np.float32,
) -> NDArray[np.int64] | None:
    """The rows that may score ``threshold``, ascending; None when reading every row is no dearer than proving.

    score = ⟨q, x⟩ ≤ ⟨q, x̂⟩ + ‖q‖‖x − x̂‖ ≤ estimate + slack + MAX_NORM·error, and a row that was not proposed has no
    better an estimate than the last that was.
    """
    loose, most = segment.loose()
    while estimates[-1] + slack + MAX_NORM * most >= threshold and len(places) < len(segment.rows):
        wanted = len(places) * 16
        if wanted > min(MOST_PROOF, len(segment.rows) // 4):
            return None
        (estimates,), (places,), _ = segment.fine.top(rotated, wanted, checked=True)
    alive = estimates + slack + np.float32(MAX_NORM) * segment.errors[places] >= threshold
    return np.union1d(places[alive], loose)


def _scanned(segment: Segment, quantiser: Quantiser) -> bool:
    """Whether a segment's codes can be used, here and with this FAISS."""
    return isinstance(segment, FaissSegment) and understands(quantiser)


def _open(folder: Path, files: Files, rows: int, width: int, quantiser: Quantiser) -> Scan:
    sums = files[f"{quantiser.name}.crc"].view("<u4").astype(np.uint32, copy=False)
    return Scan(folder / f"{quantiser.name}.u8", sums, rows, width, quantiser, threads())


def _gpu_flat(module: ModuleType, dim: int) -> Any:
    """An empty half-precision inner-product index on the first card."""
    config = module.GpuIndexFlatConfig()
    config.useFloat16 = True
    return module.GpuIndexFlatIP(module.StandardGpuResources(), dim, config)


def _gpu_candidates(segment: FaissSegment, queries: Vectors, wanted: int) -> tuple[Vectors, NDArray[np.int64]]:
    scores, rows = segment.gpu.search(queries, min(len(segment.rows), GPU_MAX_CANDIDATES, wanted))
    return scores, rows
