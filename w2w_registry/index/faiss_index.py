"""Search of large bases with FAISS: short codes find candidates, the exact vectors decide.

Every row has a coarse code of an eighth of a byte a component (``codes``). A query is rotated as the rows were, the
fast scan proposes rows by their codes, and so many of these as may be among the nearest are scored from
their stored vectors, the last dozen from the exact ones where those are stored short (``short_rows``): so scores are
exact, and only a neighbour whose code looked much worse than it is can be missed.
How many may be is seen by those scored first (``faiss_candidates``): nothing is trained, no spectrum is assumed.
Measured at 10⁵ and 10⁶ rows of 1,000 components: docs/benchmarks.md.

The scan takes no filters. A few eligible rows are scored outright; for more, so many candidates are taken that enough
of them can be expected to be eligible, and more where they are not. Rows added since the last save are searched
exactly.

``above`` proves: the fine codes bound every score from above, so that a row whose bound lies below the threshold need
not be read. What is left is read, and the answer is that of reading every row.

With faiss-gpu and a card, a process that goes on searching keeps half-precision vectors on it (``GPU_AFTER``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import IntegrityError
from w2w_registry.index.codes import Code, CodeWriter, Turns
from w2w_registry.index.exact import ExactIndex, errors_of, reaching
from w2w_registry.index.faiss_candidates import TOGETHER, decided, kth_of_each, settled
from w2w_registry.index.faiss_scan import Scan, each, faiss, threads, understands
from w2w_registry.index.protocol import Batch, Vectors
from w2w_registry.index.rows import Files, Rows, RowWriter, read_rows, write_rows
from w2w_registry.index.segments import Found, Segment
from w2w_registry.index.short_rows import ShortRows, ShortWriter, read_short
from w2w_registry.index.vectors import MAX_NORM, rounding

KIND = "faiss"
SCAN_ROWS = 8192  # fewer rows are read outright in a few milliseconds
MIN_DIM = 32  # narrower rows are hardly longer than their codes
FEW_ROWS, FEW_SHARE = 4096, 33  # eligible rows scored outright: so many, or this part of all
MARGIN, SPARE = 1.0, 50  # candidates asked for under a filter, beyond what its share suggests
FIRST_PROOF, FIRST_SHARE, MOST_PROOF = 256, 32, 32_768  # rows proposed to a proof: so many, or this part of all
PROOF_STEP, PROOF_SPARE = 4, 2.0  # times as many where they were too few; and than the last proof needed
LOOSE = 64  # rows coded worst, always read by ``above``, so that the others' bound is close
GPU_CANDIDATES = 200
GPU_AFTER = 32  # queries in one process before the vectors are copied to the card
GPU_MAX_CANDIDATES = 2048  # what GPU indexes can return


@dataclass(frozen=True)
class Effort:
    """How hard a search looks for the ten nearest among n eligible rows: ``share``·n^0.6 are proposed by their codes,
    those scored ``first`` show how far scores lie from estimates, and rows that would need more than √(2 ln(n /
    ``left``)) such deviations to be among the nearest are not read: the more there are, the less likely each may be.
    Fewer than ten need fewer candidates, in the end (measured: .45 times as many for four)."""

    share: float
    first: int
    left: float

    def proposed(self, eligible: int, limit: int) -> int:
        return int(self.share * eligible**0.6 * _part(limit))

    def scored(self, limit: int) -> int:
        return int(self.first * _part(limit))

    def sure(self, eligible: int) -> float:
        return math.sqrt(2 * math.log(max(eligible / self.left, math.e**2)))


def _part(limit: int) -> float:
    return float(min(1.0, (limit / 10) ** 0.8))


THOROUGH = Effort(share=1.02, first=256, left=300)
FAST = Effort(share=0.5, first=224, left=2000)


class FaissSegment(Segment):
    """Rows with their codes: how they were made (``turns``), ``coarse`` and ``fine`` scans, the ``scales`` of their
    parts, and how far a fine code is from its row (n,)."""

    def __init__(self, rows: Rows, turns: Turns, scans: tuple[Scan, Scan], scales: Vectors, errors: Vectors) -> None:
        super().__init__(rows)
        self.turns, self._scales, self.errors = turns, scales, errors
        self.coarse, self.fine = scans
        self.gpu: Any = None
        self._loose: tuple[NDArray[np.int64], np.float32] | None = None
        self.needed = 0  # rows that the last proof had to be proposed, and some more: the next needs about as many

    def propose(self, queries: Vectors, wanted: int) -> tuple[Vectors, NDArray[np.int64]]:
        """The ``wanted`` rows of each query that score best by their coarse codes: estimates (q, m), descending, and
        row numbers (q, m)."""
        estimates, places, _ = self.coarse.top(self.turns.heads(queries), wanted)
        estimates *= self._scales[0]
        return estimates, places

    def rotate(self, queries: Vectors) -> Vectors:
        """Queries (q, k) as the fine scan takes them."""
        parts = self.turns.parts(queries)
        return np.concatenate([part * scale for part, scale in zip(parts, self._scales, strict=True)], axis=1)

    def products(self, queries: Vectors, places: NDArray[np.int64]) -> Vectors:
        """float32 products of each query (q, k) with its rows (q, m), unverified: read where they lie, without a copy.
        A place of −1 is no row, and its product −∞."""
        places = np.ascontiguousarray(places)
        self.rows.expect(places[0] if len(places) == 1 else places[places >= 0])
        if isinstance(self.rows, ShortRows):
            return self.rows.each_product(queries, places)
        module = faiss()
        out = np.empty(places.shape, np.float32)
        pointers = [module.swig_ptr(array) for array in (out, queries, self.rows.vectors, places)]
        module.fvec_inner_products_by_idx(*pointers, queries.shape[1], *places.shape)
        return out

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
        return not any(map(_scanned, self.segments))

    @classmethod
    def write(cls, folder: Path, dim: int, batches: Iterable[Batch], *, short: bool = False) -> int:
        rows: ShortWriter | RowWriter = ShortWriter(folder) if short and dim >= MIN_DIM else RowWriter(folder)
        with closing(rows), closing(CodeWriter(folder, dim if dim >= MIN_DIM else None)) as codes:
            return write_rows(folder, dim, batches, rows.add, codes.add)

    @classmethod
    def load(cls, folder: Path, files: Files, dim: int, *, unchecked: bool) -> Segment:
        rows = (read_short if "vectors.i8" in files else read_rows)(files, dim, unchecked=unchecked)
        if dim < MIN_DIM or len(rows) < SCAN_ROWS:
            return Segment(rows)
        errors = files["errors.f32"].view("<f4").astype(np.float32, copy=False)
        if len(errors) != len(rows):
            raise IntegrityError(what="index codes", name="errors.f32", expected=len(rows), found=len(errors))
        scales = files["scale.f32"].view("<f4").astype(np.float32, copy=False)
        turns = Turns(dim)
        if len(scales) != len(turns.fine.parts):
            raise IntegrityError(
                what="index codes", name="scale.f32", expected=len(turns.fine.parts), found=len(scales)
            )
        scans = _open(folder, files, len(rows), turns.coarse), _open(folder, files, len(rows), turns.fine)
        return FaissSegment(rows, turns, scans, scales, errors)

    # -- the nearest -----------------------------------------------------------------------------
    def _search_segment(
        self,
        segment: Segment,
        queries: Vectors,
        limit: int,
        rows: NDArray[np.int64] | None,
        *,
        exact: bool,
        fast: bool,
    ) -> Found:
        effort = FAST if fast else THOROUGH
        count = len(segment.rows)
        eligible = count if rows is None else len(rows)
        wanted = max(effort.proposed(eligible, limit), 4 * limit)
        few = max(FEW_ROWS, count // FEW_SHARE, 2 * wanted)
        if exact or eligible <= few or not _scanned(segment):
            return super()._search_segment(segment, queries, limit, rows, exact=exact, fast=fast)
        assert isinstance(segment, FaissSegment)
        self._asked += len(queries)
        mask = None
        if rows is not None:
            mask = np.zeros(count, bool)
            mask[rows] = True
        ask = wanted if mask is None else min(count, int(MARGIN * wanted * count / eligible) + SPARE)
        parts = [queries[start : start + TOGETHER] for start in range(0, len(queries), TOGETHER)]
        if self._on_gpu(segment):
            answers = [_of_the_card(segment, part, ask, mask, limit) for part in parts]
        else:
            sure = effort.scored(limit), effort.sure(eligible)
            answers = each(lambda part: _nearest(segment, part, ask, mask, limit, sure), parts)
        found = [one for answer in answers for one in answer]
        for i, query in enumerate(queries):
            if found[i] is None:
                (found[i],) = super()._search_segment(segment, query[None], limit, rows, exact=True, fast=False)
        return found  # type: ignore[return-value]

    # -- everyone above a threshold --------------------------------------------------------------
    def _segment_above(
        self,
        segment: Segment,
        queries: Vectors,
        threshold: np.float32,
        rows: NDArray[np.int64] | None,
        limit: int | None,
    ) -> Found:
        few = max(FEW_ROWS, len(segment.rows) // FEW_SHARE)
        if (rows is not None and len(rows) <= few) or not _scanned(segment):
            return super()._segment_above(segment, queries, threshold, rows, limit)
        assert isinstance(segment, FaissSegment)
        mask = None
        if rows is not None:
            mask = np.zeros(len(segment.rows), bool)
            mask[rows] = True
        rotated = segment.rotate(queries)
        least_rows = max(FIRST_PROOF, len(segment.rows) // FIRST_SHARE, 2 * (limit or 0))
        first = min(max(least_rows, segment.needed), _most_rows(segment))
        estimates, places, slack = segment.fine.top(rotated, first, checked=True)
        found: Found = []
        for i, query in enumerate(queries):
            least = _raised(segment, query, threshold, places[i], mask, limit)
            chosen = _not_excluded(segment, rotated[i : i + 1], least, estimates[i], places[i], slack[i])
            if chosen is None:
                found += super()._segment_above(segment, query[None], threshold, rows, limit)
                continue
            chosen = chosen if mask is None else chosen[mask[chosen]]
            products = segment.products(query[None], chosen[None])[0]
            errors = errors_of(segment.rows, chosen)
            bounds = products if errors is None else products + np.float32(MAX_NORM) * errors
            near = bounds >= least - 2 * rounding(self._dim)
            found.append(reaching(segment.rows, query, chosen[near], threshold))
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


def _nearest(
    segment: FaissSegment,
    queries: Vectors,
    ask: int,
    mask: NDArray[np.bool_] | None,
    limit: int,
    effort: tuple[int, float],
) -> list[Batch | None]:
    """For each query the best ``limit`` of the eligible among the ``ask`` rows proposed, or of more of them where a
    filter leaves too few or where rows not proposed may be better; None where reading every eligible row is no dearer.
    """
    estimates, places = segment.propose(queries, ask)
    found: list[Batch | None] = [None] * len(queries)
    if mask is None and places.shape[1] >= 2 * limit:
        found = settled(segment, queries, estimates, places, limit, *effort)
    for i in (i for i, one in enumerate(found) if one is None):
        asked, few, at = len(places[i]), estimates[i : i + 1], places[i : i + 1]
        while True:
            if mask is not None:
                eligible = mask[at[0]]
                few, at = few[:, eligible], at[:, eligible]
            if at.shape[1] >= 2 * limit and (mask is not None or asked > places.shape[1]):
                (found[i],) = settled(segment, queries[i : i + 1], few, at, limit, *effort)
            asked *= 4
            if found[i] is not None or asked * 8 > len(segment.rows):
                break
            few, at = segment.propose(queries[i : i + 1], asked)
    return found


def _raised(
    segment: FaissSegment,
    query: Vectors,
    threshold: np.float32,
    places: NDArray[np.int64],
    mask: NDArray[np.bool_] | None,
    limit: int | None,
) -> np.float32:
    """The threshold, or what the limit-th best of those rows scores, if that is more: who scores less is not asked
    for, so that few rows need be looked at, however low the threshold."""
    if limit is None:
        return threshold
    usable = (places if mask is None else places[mask[places]])[: 4 * max(1, limit)]  # as good: they come by estimate
    if len(usable) < max(1, limit):
        return threshold
    products = segment.products(query[None], usable[None])
    kth = kth_of_each(products, max(1, limit))
    ((_, scores),) = decided(segment, query[None], usable[None], products, max(1, limit), kth)  # verified rows
    return max(threshold, scores[-1])


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
    least = threshold - slack - MAX_NORM * most
    while estimates[-1] >= least and len(places) < len(segment.rows):
        if len(places) >= _most_rows(segment):
            segment.needed = len(places)
            return None
        wanted = min(PROOF_STEP * len(places), _most_rows(segment))
        (estimates,), (places,), _ = segment.fine.top(rotated, wanted, checked=True)
    segment.needed = int(PROOF_SPARE * np.count_nonzero(estimates >= least))
    errors = segment.errors[places]
    alive = (estimates + slack + np.float32(MAX_NORM) * errors >= threshold) & (errors <= most)
    return np.sort(np.concatenate([places[alive], loose]))


def _most_rows(segment: FaissSegment) -> int:
    """Proposed to a proof at most: reading every row is no dearer than more of them."""
    return min(MOST_PROOF, len(segment.rows) // 4)


def _scanned(segment: Segment) -> bool:
    """Whether a segment's codes can be used, here and with this FAISS."""
    return isinstance(segment, FaissSegment) and all(map(understands, (segment.turns.coarse, segment.turns.fine)))


def _open(folder: Path, files: Files, rows: int, code: Code) -> Scan:
    sums = files[f"{code.name}.crc"].view("<u4").astype(np.uint32, copy=False)
    return Scan(folder / f"{code.name}.u8", sums, rows, code, threads())


def _gpu_flat(module: ModuleType, dim: int) -> Any:
    """An empty half-precision inner-product index on the first card."""
    config = module.GpuIndexFlatConfig()
    config.useFloat16 = True
    return module.GpuIndexFlatIP(module.StandardGpuResources(), dim, config)


def _of_the_card(
    segment: FaissSegment, queries: Vectors, wanted: int, mask: NDArray[np.bool_] | None, limit: int
) -> list[Batch | None]:
    """The best ``limit`` rows of every query among those that score best in half precision; None where too few of
    those are eligible."""
    _, proposed = segment.gpu.search(queries, min(len(segment.rows), GPU_MAX_CANDIDATES, wanted))
    found: list[Batch | None] = []
    for query, places in zip(queries, proposed, strict=True):
        usable = places[(places >= 0) & (mask is None or mask[places])]
        chosen = np.sort(usable[: max(GPU_CANDIDATES, 4 * limit)])
        if len(chosen) < 2 * limit:
            found.append(None)
            continue
        products = segment.products(query[None], chosen[None])
        kth = kth_of_each(products, limit)
        found += decided(segment, query[None], chosen[None], products, limit, kth)
    return found
