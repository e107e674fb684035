"""Fitting a weight space: PCA of standardised θ (weights2weights, §3.1), in memory or streamed.

One implementation for numpy and torch arrays (array API): on a GPU hand in tensors that live there. With Z (n, D) the
standardised rows, three routes lead to the same components:

- ``gram``: eigenvectors U of Z Zᵀ (n, n), then V = ZᵀU/s, when there are fewer LoRAs than parameters;
- ``covariance``: eigenvectors of ZᵀZ (D, D), when there are fewer parameters;
- ``krylov``: block Lanczos on either (``space.eigen``), when neither matrix fits or when that is less work.

Products are float32, summed up in float64 piece by piece. Whether that was enough is measured, not assumed: the fit
checks with random probes how far V is from orthonormal and from being eigenvectors, and computes in float64 where the
smallest component kept is too near to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.eigen import Leading, lanczos, leading, width_of
from w2w_registry.space.layout import Layout
from w2w_registry.space.rows import Moments, Rows, Scaling, Side, Standardised, forget, moments_of, to_numpy
from w2w_registry.version import __version__

Method = Literal["auto", "gram", "covariance", "krylov"]
Scratch = Callable[[tuple[int, ...]], NDArray[np.float32]]

MAX_COMPONENTS = 1000  # the paper's number for sampling and edits
TOLERANCE = 1e-5
"""Estimated share of the explainable variance that a Krylov fit may miss."""
_MAX_SQUARE = 8192  # side of the largest matrix that is made whole (512 MB)
_MAX_GATHERED = 1 << 28  # numbers of a stream that are gathered in memory (1 GB) to be read by columns
_BLOCK = 1 << 21
_NEGLIGIBLE = 1e-10  # of the largest variance: below it even float64 holds only rounding
_ROUNDING = 1e3  # times float32's rounding of M's diagonal: a smaller eigenvalue is computed in float64
_PROBES = 8
_ORTHONORMAL = 1e-5


@dataclass(frozen=True)
class FitReport:
    """How a fit was found and how exact it is.

    ``method``; ``precision`` of the products; ``steps`` of block Lanczos (0: solved whole). ``missed``: estimated share
    of the variance of the best k components that these do not reach (0 when solved whole). ``residual``: ‖M V − V Λ‖_F
    relative to ‖Λ‖_F, and ``orthonormality``: the largest row norm of VᵀV − 1, both estimated from random probes.
    """

    method: str
    precision: str
    steps: int
    missed: float
    residual: float
    orthonormality: float


@dataclass(frozen=True, eq=False)
class Fit:
    """The space; the report; and the Gram matrix Z Zᵀ (n, n) float64 where it was made."""

    space: WeightSpace
    report: FitReport
    gram: NDArray[np.float64] | None


def fit_space(data: Any, layout: Layout, **options: Any) -> WeightSpace:
    """The space of :func:`fit`, which see."""
    return fit(data, layout, **options).space


def fit(
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
    tolerance: float = TOLERANCE,
    memory: int | None = None,
    scratch: Scratch | None = None,
) -> Fit:
    """PCA of standardised LoRAs.

    Args:
        data: θ as an array (n, D), numpy (a memory map is read in pieces that are let go again) or torch, or a
            re-iterable of arrays (m, D): a list, or an object whose ``__iter__`` starts afresh each time, as the data
            is read more than once.
        components: how many to keep; None = as many as the data supports, at most 1,000.
        fit_set_digest: what names the fit set; None = digest of the rows' own digests, in sorted order.
        scaling: what σ is, see below.
        method: ``auto`` takes the least work that fits.
        start: A₀ (D_A,) when the data is in the canonical gauge of it (``space.gauge.canonical_rows``).
        seed: of the Krylov route. The same data and seed give the same space.
        tolerance: of the Krylov route, see ``TOLERANCE``.
        memory: bytes that a matrix made whole may take; None = 512 MB.
        scratch: gives the float32 array of a shape that V is written to; None = memory.

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

    rows = Rows(data)
    first = next(iter(rows.blocks()), None)
    if first is None or first.ndim != 2 or first.shape[1] != layout.dim:
        shape = None if first is None else tuple(first.shape)
        raise UsageError(reason=f"the fit set has blocks of shape {shape}, the layout needs (n, {layout.dim})")
    xp = array_api_compat.array_namespace(first)
    moments = moments_of(xp, rows, layout, scaling, digest=fit_set_digest)
    n, d = moments.count, layout.dim
    limit = min(n - 1, d)
    if components is not None and not 1 <= components <= limit:
        raise UsageError(reason=f"{components} components asked, {n} LoRAs of {d} parameters support 1 to {limit}")
    wanted = components or min(limit, MAX_COMPONENTS)
    route, rows = _route(xp, method, rows, n, d, wanted, memory)
    solver = _Solver(xp, rows, moments, route, wanted, tolerance, seed, array_api_compat.device(first))
    found = solver.solve()
    variance = found.values / (n - 1)
    if components is not None and len(variance) < components:
        raise UsageError(
            reason=f"{components} components asked, the LoRAs differ in only {len(variance)} independent ways"
        )
    vectors, residual, overlap = solver.components(found, scratch or in_memory)
    space = WeightSpace(
        base_model=base_model,
        base_revision=base_revision,
        layout=layout,
        mean=moments.mean,
        std=moments.std,
        components=vectors,
        component_std=np.sqrt(variance).astype(np.float32),
        explained_variance_ratio=(variance / moments.total).astype(np.float32),
        fit_set_digest=moments.rows_digest,
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
    report = FitReport(route, solver.precision, found.steps, found.missed, residual, overlap)
    return Fit(space, report, solver.gram)


def _route(
    xp: Any, method: Method, rows: Rows, n: int, d: int, wanted: int, memory: int | None
) -> tuple[Literal["gram", "covariance", "krylov"], Rows]:
    """The route, and the rows to take it with (a small stream gathered, so that it can be read by columns)."""
    side = min(_MAX_SQUARE, int(np.sqrt(memory / 8)) if memory is not None else _MAX_SQUARE)
    by_columns = rows.array is not None or n * d <= (_MAX_GATHERED if memory is None else memory // 4)
    route: Literal["gram", "covariance", "krylov"]
    if method != "auto":
        route = method
    elif n <= d and n <= side and by_columns:
        route = "gram"
    else:
        route = "covariance" if d <= side else "krylov"
    # Half a square product, or about 5.5 products with as many columns as are wanted (measured).
    if method == "auto" and route != "krylov" and min(n, d) > 11 * wanted:
        route = "krylov"
    if route == "gram" or (route == "krylov" and n < d and by_columns):
        rows = rows if rows.array is not None else Rows(xp.concat(list(rows.blocks()), axis=0))
    return route, rows


class _Solver:
    """One fit's eigenproblem: M = Zᵀ Z on the side it is solved on, in float32, or float64 where that is too little."""

    def __init__(
        self,
        xp: Any,
        rows: Rows,
        moments: Moments,
        route: str,
        wanted: int,
        tolerance: float,
        seed: int,
        device: Any,
    ) -> None:
        self._xp, self._rows, self._moments, self._device = xp, rows, moments, device
        self._route, self._wanted, self._tolerance, self._seed = route, wanted, tolerance, seed
        narrow = rows.array is not None and moments.count < len(moments.mean)
        by_columns = route == "gram" or (route == "krylov" and narrow)
        self._side: Side = "columns" if by_columns else "rows"
        self.precision: Literal["float32", "float64"] = "float32"
        self.gram: NDArray[np.float64] | None = None
        self._z = self._standardised()

    def _standardised(self) -> Standardised:
        dtype, squared = getattr(self._xp, self.precision), self._route != "krylov"
        return Standardised(self._xp, self._rows, self._moments, self._side, dtype, squared=squared)

    def solve(self) -> Leading:
        """The leading eigenpairs that are more than rounding, at most as many as wanted."""
        found, rounding = self._attempt()
        if found.values[-1] < _ROUNDING * rounding:
            self.precision = "float64"
            self._z = self._standardised()
            found, _ = self._attempt()
        keep = int(np.sum(found.values > _NEGLIGIBLE * found.values[0]))
        return Leading(found.values[:keep], found.vectors[:, :keep], found.missed, found.steps)

    def _attempt(self) -> tuple[Leading, float]:
        """Eigenpairs at the current precision, and float32's rounding of M."""
        wanted = min(self._wanted, self._z.short)
        if self._route == "krylov":
            width = width_of(wanted) * (1 if self._rows.array is not None else 2)
            dtype = getattr(self._xp, self.precision)
            short = self._z.short
            found = lanczos(
                self._xp, self._apply, short, wanted, width, self._tolerance, self._seed, dtype, self._device
            )
            # Of a Gram matrix the mean of the diagonal, of a covariance the trace over the rank it can have.
            scale = self._moments.total * (self._moments.count - 1) / min(short, self._moments.count)
            return found, float(np.finfo(np.float32).eps) * scale
        matrix = self._matrix()
        if self._side == "columns":
            self.gram = to_numpy(matrix)
        rounding = float(np.finfo(np.float32).eps) * float(self._xp.max(self._xp.linalg.diagonal(matrix)))
        return leading(matrix, wanted, self._tolerance, self._seed), rounding

    def _matrix(self) -> Any:
        short = self._z.short
        total = self._xp.zeros((short, short), dtype=self._xp.float64, device=self._device)
        square = None
        for _, z in self._z.pieces():
            if square is not None and isinstance(z, np.ndarray):  # memory asked for anew costs a tenth of the product
                np.matmul(z.T, z, out=square)
            else:
                square = self._xp.matrix_transpose(z) @ z
            total += square
        return total

    def _apply(self, block: Any) -> Any:
        total = None
        for _, z in self._z.pieces():
            image = self._xp.matrix_transpose(z) @ (z @ block)
            total = image if total is None else total + image
        return total

    def components(self, found: Leading, scratch: Scratch) -> tuple[NDArray[np.float32], float, float]:
        """V (D, k) float32, orthonormal and signed; what the probes say of M V − V Λ and of VᵀV − 1."""
        vectors = scratch((len(self._moments.mean), len(found.values)))
        probes = np.random.default_rng(self._seed).standard_normal((len(found.values), _PROBES), np.float32)
        size = np.sqrt(found.values)
        if self._side == "columns":
            # With U S the coordinates of the fitted rows: Z V must be U S, which is checked as V is made.
            scaled = self._xp.astype(found.vectors / self._like(size), getattr(self._xp, self.precision))
            asked = self._like(probes, self._xp.float32)
            total = self._xp.zeros((self._z.short, _PROBES), dtype=self._xp.float64, device=self._device)
            for part, z in self._z.pieces():
                piece = self._xp.astype(z @ scaled, self._xp.float32)  # as it is kept
                vectors[part] = to_numpy(piece)
                forget(vectors)
                total += self._xp.matrix_transpose(z) @ self._xp.astype(piece @ asked, z.dtype)
            ours, seen = to_numpy(found.vectors), np.asarray(to_numpy(total), np.float64)
            wrong = seen - ours @ (size[:, None] * probes)
            residual = float(np.linalg.norm(wrong) / np.sqrt(_PROBES) / np.linalg.norm(size))
            overlap = (ours.T @ wrong) / size[:, None]
        else:
            vectors[:] = to_numpy(found.vectors)
            held = self._like(vectors @ probes, getattr(self._xp, self.precision))
            image = to_numpy(self._apply(held))
            wrong = image - vectors @ (found.values[:, None] * probes)
            residual = float(np.linalg.norm(wrong) / np.sqrt(_PROBES) / np.linalg.norm(found.values))
            overlap = vectors.T @ (vectors @ probes) - probes
        rows = np.linalg.norm(overlap, axis=1) / np.sqrt(_PROBES)
        worst = np.flatnonzero(rows > _ORTHONORMAL)
        if len(worst):
            # An entry is rounding over the two components' sizes, so what is off is a tail of small ones.
            rows[worst[0] :] = _orthonormalise(vectors, worst[0])
        _sign(vectors)
        return vectors, residual, float(rows.max())

    def _like(self, array: NDArray[Any], dtype: Any = None) -> Any:
        return self._xp.asarray(array, dtype=dtype or self._xp.float64, device=self._device)


def _orthonormalise(vectors: NDArray[np.float32], since: int) -> float:
    """One Cholesky-QR step of the columns from ``since`` on, in place; how far they are from it then."""
    overlap = np.zeros((vectors.shape[1] - since,) * 2)
    for part in _parts(vectors):
        piece = np.ascontiguousarray(vectors[part, since:])
        overlap += piece.T @ piece
    turn = np.linalg.inv(np.linalg.cholesky(overlap)).T
    nearly_one = turn.astype(np.float32)
    for part in _parts(vectors):
        vectors[part, since:] = vectors[part, since:] @ nearly_one
        forget(vectors)
    return float(np.linalg.norm(turn.T @ overlap @ turn - np.eye(len(turn)), axis=1).max())


def _sign(vectors: NDArray[np.float32]) -> None:
    """Turn columns round in place so that each one's largest entry is positive."""
    highest = np.full(vectors.shape[1], -np.inf, np.float32)
    lowest = -highest
    for part in _parts(vectors):
        piece = vectors[part]
        np.maximum(highest, piece.max(axis=0), out=highest)
        np.minimum(lowest, piece.min(axis=0), out=lowest)
    turned = -lowest > highest
    if turned.any():
        signs = np.where(turned, np.float32(-1), np.float32(1))
        for part in _parts(vectors):
            vectors[part] *= signs
            forget(vectors)


def _parts(vectors: NDArray[Any]) -> list[slice]:
    step = max(1, _BLOCK // max(1, vectors.shape[1]))
    return [slice(first, first + step) for first in range(0, len(vectors), step)]


def in_memory(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The scratch space that memory is."""
    return np.empty(shape, np.float32)


def _library(xp: Any) -> dict[str, str]:
    name = str(xp.__name__).split(".")[-1]
    return {} if name == "numpy" else {name: str(getattr(xp, "__version__", "unknown"))}
