"""A weight space: base model, layout, mean, std and orthonormal components; coordinates there and back (DESIGN §2).

Source of the mathematics: weights2weights, §3.1–3.2: z = (θ − μ)/σ, c = Vᵀz, θ̂ = (V c)·σ + μ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from w2w_registry.records import canonical_json
from w2w_registry.space.layout import Layout
from w2w_registry.space.metrics import Calibration, Metric
from w2w_registry.space.rounding import can_be_exact, exact_product, summing_error
from w2w_registry.space.start import canonical_rows, start_size

Float32 = NDArray[np.float32]

# V is touched in row blocks of about this many numbers, so that a memory-mapped one is never loaded whole.
_BLOCK = 1 << 22
# From so many numbers in V on, products are of float32 pieces of _BLOCK numbers, summed in float64; always of a
# multiple of _ROWS rows, so that the same product is made of a row whether it comes alone or among others.
_LARGE = 1 << 22
_ROWS = 64
_ASIDE = 0.1  # spreads of a component: identities lying about a point no farther than this lie about the mean


@dataclass(frozen=True, eq=False)
class WeightSpace:
    """Immutable; two spaces are the same when their digests are.

    Attributes:
        base_model, base_revision: the model the LoRAs adapt. layout: how a LoRA flattens to θ (D,).
        mean, std: (D,) float32. A std from our own fit is positive; an imported one may be negative (the public
            release has some), which flips the sign of that entry of z on the way in and again on the way out.
        components: V (D, k) float32 with orthonormal columns, by falling variance; may be a memory map.
        component_std: (k,) standard deviation of the coordinates over the fit set.
        explained_variance_ratio: (k,) share of the standardised variance. Empty when the source did not say.
        fit_set_digest, fit_size: which LoRAs, and how many, the space was fitted on.
        software: name → version of what computed it.
        coordinate_mean: (k,) of the fit set, None when zero (our own fits).
        repeat_reliability: (k,) correlation of each coordinate between trainings of one identity; None if unknown.
        start: A₀ (D_A,), the reference of a canonical gauge (``space.gauge``); None for a raw gauge.
        metric, calibration: how to compare coordinates, and what score means "same identity"; None if not chosen yet.
    """

    base_model: str
    base_revision: str | None
    layout: Layout
    mean: Float32
    std: Float32
    components: Float32
    component_std: Float32
    explained_variance_ratio: Float32
    fit_set_digest: str
    fit_size: int
    software: Mapping[str, str] = field(default_factory=dict)
    coordinate_mean: Float32 | None = None
    repeat_reliability: Float32 | None = None
    metric: Metric | None = None
    calibration: Calibration | None = None
    start: Float32 | None = None

    def __post_init__(self) -> None:
        d, k = self.layout.dim, self.components.shape[-1]
        expected: list[tuple[str, NDArray[Any] | None, tuple[int, ...]]] = [
            ("mean", self.mean, (d,)),
            ("std", self.std, (d,)),
            ("components", self.components, (d, k)),
            ("component_std", self.component_std, (k,)),
            ("coordinate_mean", self.coordinate_mean, (k,)),
            ("repeat_reliability", self.repeat_reliability, (k,)),
            ("start", self.start, (start_size(self.layout),)),
        ]
        if self.explained_variance_ratio.size:
            expected.append(("explained_variance_ratio", self.explained_variance_ratio, (k,)))
        for name, array, shape in expected:
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")

    @property
    def dim(self) -> int:
        """D."""
        return self.layout.dim

    @property
    def k(self) -> int:
        """Number of components."""
        return int(self.components.shape[1])

    @property
    def gauge(self) -> Literal["canonical", "raw"]:
        """``canonical``: every LoRA is written with A's projection on ``start`` fixed; ``raw``: as it came."""
        return "raw" if self.start is None else "canonical"

    def in_gauge(self, thetas: ArrayLike) -> Float32:
        """θ (n, D) of LoRAs of this layout, trained from this space's start, in the space's gauge."""
        values = np.asarray(thetas, np.float32)
        return values if self.start is None else canonical_rows(values, self.layout, self.start)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array of the space by name, the absent ones left out."""
        named = {
            "mean": self.mean,
            "std": self.std,
            "components": self.components,
            "component_std": self.component_std,
            "explained_variance_ratio": self.explained_variance_ratio,
            "coordinate_mean": self.coordinate_mean,
            "repeat_reliability": self.repeat_reliability,
            "start": self.start,
        }
        return {name: array for name, array in named.items() if array is not None}

    def facts(self) -> dict[str, Any]:
        """Everything that is not an array, as plain JSON values; ``metric`` and ``calibration`` included."""
        return {
            "base_model": self.base_model,
            "base_revision": self.base_revision,
            "layout": self.layout.to_json(),
            "fit_set_digest": self.fit_set_digest,
            "fit_size": self.fit_size,
            "software": dict(self.software),
            "metric": None if self.metric is None else self.metric.to_json(),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> WeightSpace:
        """The space with these ``facts`` and arrays. Raises KeyError, ValueError, TypeError: they make none."""
        return cls(
            base_model=facts["base_model"],
            base_revision=facts["base_revision"],
            layout=Layout.from_json(facts["layout"]),
            fit_set_digest=facts["fit_set_digest"],
            fit_size=facts["fit_size"],
            software=facts["software"],
            metric=Metric.from_json(facts["metric"]) if facts["metric"] else None,
            calibration=Calibration.from_json(facts["calibration"]) if facts["calibration"] else None,
            **arrays,
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of ``facts`` and the digest of every array."""
        arrays = {name: array_digest(array) for name, array in self.arrays().items()}
        return hashlib.sha256(canonical_json({**self.facts(), "arrays": arrays}).encode()).hexdigest()

    def project(self, theta: ArrayLike) -> Float32:
        """Coordinates (k,) of θ (D,), or (n, k) of (n, D). One row or many give one answer."""
        values, single = self._checked(theta)
        coordinates = self._summed(values)[0].astype(np.float32)
        return coordinates[0] if single else coordinates

    def reconstruct(self, coordinates: ArrayLike) -> Float32:
        """θ̂ (D,) of coordinates (k,), or (n, D) of (n, k): θ̂ = (V c)·σ + μ.

        The same to the last bit on every machine, of one point or of many (``space.rounding``): the digest of a model
        that is kept as coordinates hangs on it.
        """
        c = np.asarray(coordinates, np.float64)
        points = np.atleast_2d(c)
        theta = np.empty((len(points), self.dim), np.float32)
        for rows in self._row_blocks():
            z = points @ np.asarray(self.components[rows], np.float64).T
            theta[:, rows] = self._settled(z, points, rows)
        return theta[0] if c.ndim == 1 else theta

    def _settled(self, z: NDArray[np.float64], points: NDArray[np.float64], rows: slice) -> Float32:
        """These rows of θ̂ (n, rows) of z, with those worked out exactly whose float32 depends on z's error."""
        std, mean = self.std[rows].astype(np.float64), self.mean[rows].astype(np.float64)
        error = summing_error(self.k) * np.linalg.norm(points, axis=1)[:, None] * self._row_norms[rows]
        theta = np.asarray((z - error) * std + mean, np.float32)
        # θ is monotone in z, so where both ends of what z may be give one number, z itself gives it.
        open_ends = theta != np.asarray((z + error) * std + mean, np.float32)
        if open_ends.any() and can_be_exact(points):
            for i, d in np.argwhere(open_ends):
                theta[i, d] = exact_product(self.components[rows.start + d], points[i]) * std[d] + mean[d]
        return theta + np.float32(0)  # no zero below zero

    @cached_property
    def _row_norms(self) -> NDArray[np.float64]:
        """‖V's row‖ (D,), good to a thousandth."""
        parts = (np.asarray(self.components[rows], np.float32) for rows in self._row_blocks())
        return np.sqrt(np.concatenate([np.einsum("dk,dk->d", v, v) for v in parts]).astype(np.float64))

    def centres(self) -> Float32:
        """θ (p, D) of the models it is made around: its mean, and where its identities lie about when that is
        elsewhere (p = 2)."""
        middle = self.coordinate_mean
        if middle is None or not np.any(np.abs(middle) > _ASIDE * self.component_std):
            return np.asarray(self.mean[None], np.float32)
        return np.stack([self.mean, self.reconstruct(middle)]).astype(np.float32)

    def residual(self, theta: ArrayLike, coordinates: ArrayLike | None = None) -> Any:
        """‖z − V c‖ / ‖z‖ of θ (D,) as a float, or (n,) float64 of (n, D): the share the space cannot represent.

        V is orthonormal, so ‖z − Vc‖² = ‖z‖² − ‖c‖². ``coordinates`` saves projecting again.
        """
        values, single = self._checked(theta)
        c = np.atleast_2d(np.asarray(self.project(theta) if coordinates is None else coordinates, np.float64))
        mean, inverse = self.mean.astype(np.float64), self._inverse()
        whole = np.zeros(len(values))
        for rows in self._row_blocks():
            z = (values[:, rows] - mean[rows]) * inverse[rows]
            whole += np.einsum("nd,nd->n", z, z)
        share = self._left(whole, c)
        return float(share[0]) if single else share

    def placed(self, thetas: Sequence[NDArray[Any]]) -> tuple[Float32, NDArray[np.float64]]:
        """Coordinates (n, k) of n rows θ (D,) and residuals (n,), as ``project`` and ``residual`` give them, in one
        pass."""
        total, whole = self._summed(thetas)
        coordinates = total.astype(np.float32)
        return coordinates, self._left(whole, coordinates.astype(np.float64))

    def truncated(self, k: int) -> WeightSpace:
        """The same space with its first ``k`` components; metric and calibration, which belong to all, are dropped."""
        if not 1 <= k <= self.k:
            raise ValueError(f"{k} components asked of a space with {self.k}")
        cut: dict[str, Any] = {
            name: np.ascontiguousarray(getattr(self, name)[:k])
            for name in ("component_std", "explained_variance_ratio", "coordinate_mean", "repeat_reliability")
            if getattr(self, name) is not None
        }
        return replace(self, components=self.components[:, :k], metric=None, calibration=None, **cut)

    def _checked(self, theta: ArrayLike) -> tuple[NDArray[Any], bool]:
        """θ as rows, and whether it was one."""
        values = np.asarray(theta)
        if values.shape[-1:] != (self.dim,) or values.ndim not in (1, 2):
            raise ValueError(f"θ has shape {values.shape}, the space needs ({self.dim},) or (n, {self.dim})")
        return np.atleast_2d(values), values.ndim == 1

    def _inverse(self) -> NDArray[np.float64]:
        """1/σ (D,). A release may hold a std of exactly zero: that entry of θ is always μ, so it carries nothing."""
        std = self.std.astype(np.float64)
        return np.divide(1.0, std, out=np.zeros_like(std), where=std != 0)

    def _summed(self, values: NDArray[Any] | Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Vᵀz (n, k) and ‖z‖² (n,) of θ (n, D), a piece of θ at a time: that stays in the cache, and the whole of z
        would not."""
        count = len(values)
        large = self.dim * self.k >= _LARGE
        dtype: Any = np.float32 if large else np.float64
        padded = -(-count // _ROWS) * _ROWS if large else count
        mean, inverse = np.array(self.mean, dtype), np.array(self._inverse(), dtype)  # read whole, not by the piece
        total, whole = np.zeros((count, self.k)), np.zeros(count)
        for rows in self._row_blocks():
            block = np.zeros((padded, rows.stop - rows.start), dtype)
            z, middle = block[:count], mean[rows]
            for row, theta in zip(z, values, strict=True):
                np.subtract(theta[rows], middle, out=row, casting="same_kind")
            z *= inverse[rows]
            whole += (z[:, None, :] @ z[:, :, None])[:, 0, 0]
            total += (block @ np.asarray(self.components[rows], dtype))[:count]
        return total, whole

    @staticmethod
    def _left(whole: NDArray[np.float64], coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of ‖z‖² = ``whole`` (n,) that coordinates (n, k) leave, as a root."""
        rest = np.maximum(whole - np.einsum("nk,nk->n", coordinates, coordinates), 0.0)
        return np.asarray(np.sqrt(np.divide(rest, whole, out=np.zeros_like(whole), where=whole > 0)))

    def _row_blocks(self) -> Iterator[slice]:
        step = max(1, _BLOCK // max(1, self.k))
        for start in range(0, self.dim, step):
            yield slice(start, min(start + step, self.dim))


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 (hex) of shape and little-endian float32 content in row order, read in blocks."""
    digest = hashlib.sha256(f"float32 {list(array.shape)}\n".encode())
    step = max(1, _BLOCK // max(1, int(np.prod(array.shape[1:]))))
    for start in range(0, array.shape[0], step):
        digest.update(np.ascontiguousarray(array[start : start + step], "<f4").reshape(-1).data)
    return digest.hexdigest()
