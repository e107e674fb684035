"""Fitting a weight space: PCA of standardised θ (weights2weights, §3.1), in memory or streamed.

One implementation for numpy and torch arrays (array API): on a GPU hand in tensors that live there. Three routes to
the same components: the Gram matrix when there are fewer LoRAs than parameters, the covariance when there are
fewer parameters, and randomised subspace iteration (Halko, Martinsson & Tropp, SIAM Review 2011, algorithm 4.4)
when neither matrix fits; each reads the data in blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.layout import Factor, Layout
from w2w_registry.version import __version__

Method = Literal["auto", "gram", "covariance", "randomized"]
Scaling = Literal["module", "parameter"]

MAX_COMPONENTS = 1000  # the paper's number for sampling and edits
_MAX_SQUARE = 8192  # side of the largest matrix solved exactly (512 MB)
_MAX_HELD = 1 << 30  # numbers of a streamed set that may be gathered in memory (4 GB)
_BLOCK = 1 << 24
_FLOOR = 1e-2
_NEGLIGIBLE = 1e-10  # of the largest variance: below it the Gram matrix holds only rounding
_OVERSAMPLE, _POWER = 64, 6


@dataclass(frozen=True)
class _Moments:
    count: int
    mean: Any
    std: Any
    total: float
    rows_digest: str


def fit_space(
    data: Any,
    layout: Layout,
    *,
    base_model: str,
    base_revision: str | None = None,
    components: int | None = None,
    fit_set_digest: str | None = None,
    scaling: Scaling = "module",
    method: Method = "auto",
    seed: int = 0,
    start: NDArray[np.float32] | None = None,
) -> WeightSpace:
    """PCA of standardised LoRAs.

    Args:
        data: θ as an array (n, D), numpy or torch, or a re-iterable of arrays (m, D): a list, or an object whose
            ``__iter__`` starts afresh each time, as the data is read more than once.
        components: how many to keep; None = as many as the data supports, at most 1,000.
        fit_set_digest: what names the fit set; None = digest of the rows' own digests, in sorted order.
        scaling: what σ is, see below.
        method: ``auto`` picks ``gram`` (n ≤ D, n ≤ 8192), ``covariance`` (D < n, D ≤ 8192) or ``randomized``.
        start: A₀ (D_A,) when the data is in the canonical gauge of it (``space.gauge.canonical_rows``).
        seed: of the randomised route. The same data and seed give the same space.

    σ makes the parameters comparable before the PCA; it is never zero or negative, and Σ var/σ² = D:

    - ``module``: one σ per tensor. Every module has the same variance, and within it A and B have a say in proportion
      to √(what they do): to first order ΔW ∝ BA changes by δB A + B δA, so B does E‖A‖²·var(B) and A does
      E‖B‖²·var(A). Parameters that hardly do anything hardly count, and a gauge shared by all LoRAs
      (A twice as large, B half) changes nothing. This finds identities again best (docs/metric.md).
    - ``parameter``: the standard deviation of each parameter (the paper's), at least 1% of the median one. It gives
      training noise in an idle parameter the same say as signal in a busy one.

    Each component's largest entry is positive.

    Raises:
        UsageError: fewer than two LoRAs, nothing that varies, NaN or Inf, or more components than the data has.
    """
    import array_api_compat

    stream = _Stream(data)
    first = next(iter(stream), None)
    if first is None or first.ndim != 2 or first.shape[1] != layout.dim:
        shape = None if first is None else tuple(first.shape)
        raise UsageError(reason=f"the fit set has blocks of shape {shape}, the layout needs (n, {layout.dim})")
    xp = array_api_compat.array_namespace(first)
    moments = _moments(xp, stream, layout, scaling)
    n, d = moments.count, layout.dim
    route = _route(method, n, d)
    limit = min(n - 1, d)
    if components is not None and not 1 <= components <= limit:
        raise UsageError(reason=f"{components} components asked, {n} LoRAs of {d} parameters support 1 to {limit}")
    wanted = components or min(limit, MAX_COMPONENTS)
    if route == "gram":
        variance, vectors = _gram(xp, stream, moments, wanted)
    elif route == "covariance":
        variance, vectors = _covariance(xp, stream, moments, wanted)
    else:
        variance, vectors = _randomized(xp, stream, moments, wanted, seed)
    vectors = _signed(_orthonormal(vectors))
    if components is not None and len(variance) < components:
        raise UsageError(
            reason=f"{components} components asked, the LoRAs differ in only {len(variance)} independent ways"
        )
    return WeightSpace(
        base_model=base_model,
        base_revision=base_revision,
        layout=layout,
        mean=_numpy(moments.mean).astype(np.float32),
        std=_numpy(moments.std).astype(np.float32),
        components=np.ascontiguousarray(vectors, np.float32),
        component_std=np.sqrt(variance).astype(np.float32),
        explained_variance_ratio=(variance / moments.total).astype(np.float32),
        fit_set_digest=fit_set_digest or moments.rows_digest,
        fit_size=n,
        start=start,
        software={
            "w2w-registry": __version__,
            "numpy": np.__version__,
            "method": route,
            "scaling": scaling,
            **({} if start is None else {"gauge": "canonical"}),
            **_library(xp),
        },
    )


class _Stream:
    """Row blocks of an array, or of a re-iterable of arrays, again and again."""

    def __init__(self, data: Any) -> None:
        self.array = data if hasattr(data, "shape") else None
        self._blocks: Iterable[Any] = () if self.array is not None else data

    def __iter__(self) -> Iterator[Any]:
        if self.array is None:
            yield from (block for block in self._blocks if block.shape[0])
            return
        step = max(1, _BLOCK // max(1, self.array.shape[1]))
        for start in range(0, self.array.shape[0], step):
            yield self.array[start : start + step, :]


def _route(method: Method, n: int, d: int) -> Literal["gram", "covariance", "randomized"]:
    if method != "auto":
        return method
    if n <= d and n <= _MAX_SQUARE and n * d <= _MAX_HELD:
        return "gram"
    return "covariance" if d <= _MAX_SQUARE else "randomized"


def _moments(xp: Any, stream: _Stream, layout: Layout, scaling: Scaling) -> _Moments:
    """Mean and std in one read: each block two-pass, merged by Chan's formula (stable, unlike E[x²] − E[x]²)."""
    count, mean, squares = 0, None, None
    rows: list[bytes] = []
    for raw in stream:
        for row in _numpy(raw).astype("<f4", copy=False):
            rows.append(hashlib.sha256(row.tobytes()).digest())
        block = xp.astype(raw, xp.float64)
        m = block.shape[0]
        block_mean = xp.mean(block, axis=0)
        block_squares = xp.sum((block - block_mean) ** 2, axis=0)
        if mean is None:
            mean, squares = block_mean, block_squares
        else:
            gap = block_mean - mean
            squares = squares + block_squares + gap**2 * (count * m / (count + m))
            mean = mean + gap * (m / (count + m))
        count += m
    if count < 2:
        raise UsageError(reason=f"a weight space needs at least two LoRAs, got {count}")
    variance = _numpy(squares) / (count - 1)
    if not np.isfinite(variance).all():
        raise UsageError(reason="the fit set contains NaN or Inf")
    if not (variance > 0).any():
        raise UsageError(reason="the LoRAs of the fit set are all the same")
    if scaling == "module":
        std = _module_std(layout, _numpy(mean), variance, variance * (count - 1) / count).astype(np.float32)
    else:
        each = np.sqrt(variance)
        std = np.maximum(each, _FLOOR * np.median(each[each > 0])).astype(np.float32)
    total = float(np.sum(variance / std.astype(np.float64) ** 2))
    digest = hashlib.sha256(b"".join(sorted(rows))).hexdigest()
    # μ and σ as they will be stored, so that the components belong to the numbers the space holds.
    as_stored = [xp.asarray(v, dtype=xp.float64, device=_device(mean)) for v in (_numpy(mean).astype("f4"), std)]
    return _Moments(count, as_stored[0], as_stored[1], total, digest)


def _module_std(
    layout: Layout, mean: NDArray[Any], variance: NDArray[Any], spread: NDArray[Any]
) -> NDArray[np.float64]:
    """σ (D,) for ``scaling="module"``; ``spread`` is the variance about the mean as a plain average."""
    places = {tensor.key: part for tensor, part in layout.slices()}
    size = {key: float(np.sum(mean[part] ** 2 + spread[part])) for key, part in places.items()}  # E‖A‖², E‖B‖²
    inverse = np.empty(layout.dim)
    used = 0
    for module in layout.modules:
        parts: dict[Factor, slice] = {"A": places[(module, "A")], "B": places[(module, "B")]}
        gain = {"A": size[(module, "B")], "B": size[(module, "A")]}
        own = {factor: float(variance[part].sum()) for factor, part in parts.items()}
        says = {factor: np.sqrt(gain[factor] * own[factor]) for factor in parts}
        whole = says["A"] + says["B"]
        used += whole > 0
        for factor, part in parts.items():
            other: Factor = "B" if factor == "A" else "A"
            if says[factor] > 0:
                inverse[part] = np.sqrt(says[factor] / whole / own[factor])
            elif whole > 0:
                # It never varied: count it, should it ever, by its effect against its partner's.
                inverse[part] = np.sqrt(gain[factor] / gain[other] / own[other])
            else:
                inverse[part] = 1.0 / np.sqrt(size[(module, factor)]) if size[(module, factor)] > 0 else 1.0
    return np.asarray(np.sqrt(used / layout.dim) / inverse)


def _standardised(xp: Any, raw: Any, moments: _Moments, columns: slice | None = None) -> Any:
    if columns is None:
        return (xp.astype(raw, xp.float64) - moments.mean) / moments.std
    return (xp.astype(raw[:, columns], xp.float64) - moments.mean[columns]) / moments.std[columns]


def _gram(xp: Any, stream: _Stream, moments: _Moments, wanted: int) -> tuple[Any, Any]:
    """n ≤ D: eigenvectors U of Z Zᵀ, then V = Zᵀ U / s, both by blocks of columns."""
    data = stream.array if stream.array is not None else xp.concat(list(stream), axis=0)
    n, d = data.shape
    step = max(1, _BLOCK // n)
    slices = [slice(start, min(start + step, d)) for start in range(0, d, step)]
    gram = xp.zeros((n, n), dtype=xp.float64, device=_device(moments.mean))
    for columns in slices:
        z = _standardised(xp, data, moments, columns)
        gram = gram + z @ xp.matrix_transpose(z)
    variance, vectors = _largest(xp, gram / (n - 1), wanted)
    scaled = vectors / xp.sqrt(variance * (n - 1))
    parts = [
        _numpy(xp.matrix_transpose(_standardised(xp, data, moments, columns)) @ scaled).astype(np.float64)
        for columns in slices
    ]
    return _numpy(variance), np.concatenate(parts)


def _covariance(xp: Any, stream: _Stream, moments: _Moments, wanted: int) -> tuple[Any, Any]:
    """D < n: eigenvectors of Zᵀ Z, one read."""
    d = moments.mean.shape[0]
    total = xp.zeros((d, d), dtype=xp.float64, device=_device(moments.mean))
    for raw in stream:
        z = _standardised(xp, raw, moments)
        total = total + xp.matrix_transpose(z) @ z
    variance, vectors = _largest(xp, total / (moments.count - 1), wanted)
    return _numpy(variance), _numpy(vectors)


def _randomized(xp: Any, stream: _Stream, moments: _Moments, wanted: int, seed: int) -> tuple[Any, Any]:
    """Neither matrix fits: subspace iteration with a fixed seed, one read per step, D × (k + 64) in memory."""
    d = moments.mean.shape[0]
    width = min(wanted + _OVERSAMPLE, moments.count - 1, d)
    start = np.random.default_rng(seed).standard_normal((d, width))
    basis, _ = xp.linalg.qr(xp.asarray(start, dtype=xp.float64, device=_device(moments.mean)))
    for _ in range(_POWER):
        image = xp.zeros_like(basis)
        for raw in stream:
            z = _standardised(xp, raw, moments)
            image = image + xp.matrix_transpose(z) @ (z @ basis)
        basis, _ = xp.linalg.qr(image)
    small = xp.zeros((width, width), dtype=xp.float64, device=_device(moments.mean))
    for raw in stream:
        y = _standardised(xp, raw, moments) @ basis
        small = small + xp.matrix_transpose(y) @ y
    variance, vectors = _largest(xp, small / (moments.count - 1), wanted)
    return _numpy(variance), _numpy(basis @ vectors)


def _largest(xp: Any, matrix: Any, wanted: int) -> tuple[Any, Any]:
    values, vectors = xp.linalg.eigh(matrix)
    order = np.arange(matrix.shape[0] - 1, -1, -1)[:wanted]
    held = _numpy(values)[order]
    keep = int(np.sum(held > _NEGLIGIBLE * held[0]))
    # eigh gives rising values: take the last ones, turned round.
    return xp.flip(values[-keep:], axis=0), xp.flip(vectors[:, -keep:], axis=1)


def _orthonormal(vectors: NDArray[Any]) -> NDArray[Any]:
    """Columns as orthonormal as float64 allows: one Cholesky-QR step where dividing by small s left more than that."""
    overlap = vectors.T @ vectors
    if np.abs(overlap - np.eye(len(overlap))).max() < 1e-9:
        return vectors
    return np.linalg.solve(np.linalg.cholesky(overlap), vectors.T).T


def _signed(vectors: NDArray[Any]) -> NDArray[Any]:
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return np.where(largest < 0, -vectors, vectors)


def _numpy(array: Any) -> NDArray[Any]:
    import array_api_compat

    if isinstance(array, np.ndarray):
        return array
    return np.asarray(array_api_compat.to_device(array, "cpu"))


def _device(array: Any) -> Any:
    import array_api_compat

    return array_api_compat.device(array)


def _library(xp: Any) -> dict[str, str]:
    name = str(xp.__name__).split(".")[-1]
    return {} if name == "numpy" else {name: str(getattr(xp, "__version__", "unknown"))}
