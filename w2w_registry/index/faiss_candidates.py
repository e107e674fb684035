"""From rows proposed by their coarse codes to the nearest: how many are read, and who is among them.

The rows that look best are scored from their stored vectors. How far those scores lie from their estimates says which
of the others may still be among the nearest; these are scored as well. Many queries are settled together: arrays have a
row for each, and a loop over queries would cost more than all their products (measured at 250,000 rows of 104
components: .27 ms a query one by one).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from w2w_registry.index.protocol import Batch, Vectors
from w2w_registry.index.rows import Rows
from w2w_registry.index.short_rows import ShortRows
from w2w_registry.index.vectors import best, rounding, score_pairs

Places = NDArray[np.int64]
TOGETHER = 512  # queries whose candidates memory holds at once


class Stored(Protocol):
    """Rows, and their float32 products with queries (q, k), each with its own rows (q, m)."""

    rows: Rows

    def products(self, queries: Vectors, places: Places) -> Vectors: ...


def settled(
    segment: Stored, queries: Vectors, estimates: Vectors, places: Places, limit: int, first: int, sure: float
) -> list[Batch | None]:
    """The best ``limit`` of each query's candidates; None where rows that are no candidates may be better.

    Args:
        queries: float32 (q, k). estimates, places: of the candidates (q, m), by falling estimate, m ≥ 2·limit.
        first: candidates scored in any case. sure: how many deviations a score is allowed for beyond what its
            estimate says.
    """
    proposed = places.shape[1]
    first = min(proposed, max(first, 4 * limit))
    scores = segment.products(queries, places[:, :first])
    least = _Line(estimates[:, limit:first], scores[:, limit:], sure)
    floor = kth_of_each(scores, limit)
    enough = (estimates >= least.estimate(floor)[:, None]).sum(axis=1)
    more = np.flatnonzero(enough > first)
    if len(more):
        most = int(enough[more].max())
        behind = places[more, first:most]
        if len(more) > 1:  # a row that a query does not need scores nothing and costs nothing
            behind = np.where(np.arange(first, most) < enough[more, None], behind, -1)
        grown = np.full((len(queries), most), -np.inf, np.float32)
        grown[:, :first] = scores
        grown[more, first:] = segment.products(queries[more], behind)
        scores = grown
        floor[more] = kth_of_each(scores[more], limit)
    found: list[Batch | None] = list(decided(segment, queries, places[:, : scores.shape[1]], scores, limit, floor))
    if proposed < len(segment.rows):
        for i in np.flatnonzero(estimates[:, -1] > least.estimate(floor)).tolist():
            found[i] = None
    return found


class _Line:
    """For each query: below which estimate a row is no longer expected to reach a given score, by a line fitted to rows
    whose scores are known (their estimates' errors, and the components that no code speaks of) and ``sure`` deviations.

    The very first, which a query's own copies would bend the line by, are not to be among them.
    """

    def __init__(self, estimates: Vectors, scores: Vectors, sure: float) -> None:
        self._estimate, self._score, self._sure = estimates.mean(axis=1), scores.mean(axis=1), sure
        estimates, scores = estimates - self._estimate[:, None], scores - self._score[:, None]
        spread, shared = np.einsum("ij,ij->i", estimates, estimates), np.einsum("ij,ij->i", estimates, scores)
        slope = np.where(spread > 0, shared / np.where(spread > 0, spread, 1), 1)
        self._slope = np.clip(slope, 0.1, 2.0)
        left = np.einsum("ij,ij->i", scores, scores) - 2 * self._slope * shared + self._slope**2 * spread
        self._deviation = np.sqrt(np.maximum(left, 0) / scores.shape[1])

    def estimate(self, score: Vectors) -> Vectors:
        """That estimate, (q,)."""
        least: Vectors = self._estimate + (score - self._score - self._sure * self._deviation) / self._slope
        return least


def kth_of_each(values: Vectors, k: int) -> Vectors:
    """The k-th largest of each row (k ≥ 1), or −inf where there are fewer."""
    columns = values.shape[1]
    if columns < k:
        return np.full(len(values), -np.inf, np.float32)
    return np.ascontiguousarray(np.partition(values, columns - k, axis=1)[:, columns - k])


def decided(
    segment: Stored, queries: Vectors, places: Places, products: Vectors, limit: int, kth: Vectors
) -> list[Batch]:
    """The best of rows whose products are known (q, m), by score, ``kth`` the limit-th largest of each query's; what is
    returned is verified, and only that: a damaged row that looks worse than it is would be missed."""
    least = (kth - 2 * rounding(queries.shape[1]))[:, None]
    if isinstance(segment.rows, ShortRows):  # the row that the limit was taken from is in as much doubt as another
        of, at = np.nonzero(products + 2 * segment.rows.doubts(queries, places) >= least)
    else:
        of, at = np.nonzero(products >= least)
    rows = places[of, at]
    scores = score_pairs(segment.rows.take(rows), queries, of)
    ids = segment.rows.ids[rows]
    ends = np.searchsorted(of, np.arange(len(queries) + 1))
    return [best(ids[a:b], scores[a:b], limit) for a, b in pairwise(ends.tolist())]
