"""What a metric is measured against: cosines of the LoRAs themselves, a correction for hubs, and recall."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.space.layout import Layout

Array = NDArray[np.float64]


def theta_scores(queries: ArrayLike, gallery: ArrayLike) -> Array:
    """Cosine of raw θ: (q, D) against (n, D) → (q, n)."""
    a, b = _rows(queries), _rows(gallery)
    return np.asarray(a @ b.T)


def delta_w_scores(queries: ArrayLike, gallery: ArrayLike, layout: Layout) -> Array:
    """Cosine of the effective updates ΔW over all modules: (q, D) against (n, D) → (q, n); no dense ΔW.

    ⟨B₁A₁, B₂A₂⟩ = Σᵢⱼ (A₁A₂ᵀ)ᵢⱼ (B₁ᵀB₂)ᵢⱼ, and for many at once both factors are matrix products.
    """
    q, g = np.atleast_2d(np.asarray(queries, np.float64)), np.atleast_2d(np.asarray(gallery, np.float64))
    dots = np.zeros((len(q), len(g)))
    own_q, own_g = np.zeros(len(q)), np.zeros(len(g))
    places = {tensor.key: (tensor, part) for tensor, part in layout.slices()}
    for module in layout.modules:
        (tensor_a, part_a), (tensor_b, part_b) = places[(module, "A")], places[(module, "B")]
        rank, scale = tensor_a.rank, layout.scale(module) ** 2
        aq, ag = (x[:, part_a].reshape(len(x), rank, -1) for x in (q, g))
        bq, bg = (x[:, part_b].reshape(len(x), tensor_b.shape[0], rank) for x in (q, g))
        for i in range(rank):
            for j in range(rank):
                dots += scale * (aq[:, i] @ ag[:, j].T) * (bq[:, :, i] @ bg[:, :, j].T)
                own_q += scale * _dot(aq[:, i], aq[:, j]) * _dot(bq[:, :, i], bq[:, :, j])
                own_g += scale * _dot(ag[:, i], ag[:, j]) * _dot(bg[:, :, i], bg[:, :, j])
    size = np.sqrt(np.maximum(own_q, 0))[:, None] * np.sqrt(np.maximum(own_g, 0))
    return np.asarray(np.divide(dots, size, out=np.zeros_like(dots), where=size > 0))


def _dot(a: Array, b: Array) -> Array:
    return np.asarray(np.einsum("nd,nd->n", a, b))


def _rows(values: ArrayLike) -> Array:
    rows = np.atleast_2d(np.asarray(values, np.float64))
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0))


def csls(scores: ArrayLike, gallery_scores: ArrayLike, neighbours: int = 10) -> Array:
    """Scores (q, n) corrected for hubs (Conneau et al., ICLR 2018, CSLS): 2 s − r(query) − r(gallery).

    ``r`` is the mean score to the nearest ``neighbours`` of the gallery; ``gallery_scores`` (n, n) gives it for the
    gallery's own points (each one's score with itself left out).
    """
    s, g = np.asarray(scores, np.float64), np.array(gallery_scores, np.float64)
    np.fill_diagonal(g, -np.inf)
    count = min(neighbours, len(g) - 1)
    near_query = np.sort(s, axis=1)[:, -count:].mean(1)
    near_gallery = np.sort(g, axis=1)[:, -count:].mean(1)
    return np.asarray(2 * s - near_query[:, None] - near_gallery)


def recall_at(scores: ArrayLike, truth: ArrayLike, k: int) -> float:
    """Share of queries whose true gallery row ``truth`` (q,) is among the ``k`` best of ``scores`` (q, n).

    A tie with the true row counts against it.
    """
    s, t = np.asarray(scores, np.float64), np.asarray(truth)
    own = s[np.arange(len(t)), t]
    better = (s >= own[:, None]).sum(1) - 1
    return float((better < k).mean())
