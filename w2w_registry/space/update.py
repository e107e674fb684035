"""A weight space with further LoRAs, without those it was fitted on: what the space remembers of them stands in.

Of n₁ fitted LoRAs a space knows μ, σ, V and the coordinates' variances: in z they have mean 0 and covariance V S² Vᵀ,
and the rest that V leaves out is lost. With n₂ new rows z of mean m, the scatter of all is that of the rows

    √(n₁−1) S Vᵀ ;   z − m ;   √(n₁n₂/n) m

(Ross, Lim, Lin & Yang, IJCV 2008). σ and the gauge stay, so old coordinates map linearly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import UsageError
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.metrics import Calibration, calibrate_scores, default_metric
from w2w_registry.version import __version__

Array = NDArray[np.float64]
_COLUMNS = 2048
_NEGLIGIBLE = 1e-10
_FOLDS = 4
LEAST_HELD = 20
"""New LoRAs below which nothing can be said about those left out."""


@dataclass(frozen=True, eq=False)
class Update:
    """The new space; ``lost``: share of the old LoRAs' variance in the old space that the new components leave out;
    ``unknown``: share of it that the old space had left out itself, and so cannot come back; None when it never said.
    """

    space: WeightSpace
    lost: float
    unknown: float | None


def updated(
    old: WeightSpace,
    thetas: NDArray[np.float32],
    digests: list[str],
    *,
    components: int | None = None,
    false_match_rate: float,
) -> Update:
    """The space with further LoRAs.

    Args:
        thetas: θ (n₂, D) of the new ones, in the old space's gauge; may be a memory map.
        digests: what names each of them (model digests).
        components: how many to keep; None = as many as the old space has.

    Raises:
        UsageError: no new ones, or more components than there is to keep.
    """
    n1, n2 = old.fit_size, len(thetas)
    if n2 < 1 or n1 < 2:
        raise UsageError(
            reason="there is nothing new to fit on" if n2 < 1 else "the space does not say what it was fitted on"
        )
    rows, inner = _Rows(old, thetas), _inner(old, thetas)
    wanted = components or old.k
    weights = rows.combined(np.ones(n2, bool))
    values, axes = np.linalg.eigh(weights @ inner @ weights.T)
    values, axes = values[::-1], axes[:, ::-1]
    held = int(np.sum(values > _NEGLIGIBLE * values[0]))
    if wanted > held:
        raise UsageError(reason=f"{wanted} components asked, there are {held} to keep")
    values, axes = values[:wanted], axes[:, :wanted]
    vectors, mean = rows.write(weights.T @ (axes / np.sqrt(values)))
    n = n1 + n2
    variance = values / (n - 1)
    std = np.sqrt(variance).astype(np.float32)
    known = float(old.explained_variance_ratio.sum()) if old.explained_variance_ratio.size else None
    spread = old.component_std.astype(np.float64) ** 2
    rest = 0.0 if not known else float(spread.sum()) * (1 / known - 1) * (n1 - 1)
    total = (float(np.trace(weights @ inner @ weights.T)) + rest) / (n - 1)
    space = WeightSpace(
        base_model=old.base_model,
        base_revision=old.base_revision,
        layout=old.layout,
        mean=mean,
        std=old.std,
        components=vectors,
        component_std=std,
        explained_variance_ratio=(variance / total).astype(np.float32) if known else np.zeros(0, np.float32),
        fit_set_digest=hashlib.sha256("\n".join([old.fit_set_digest, *sorted(digests)]).encode()).hexdigest(),
        fit_size=n,
        start=old.start,
        software={**old.software, "w2w-registry": __version__, "numpy": np.__version__, "method": "update"},
    )
    # Of the old axes, how much lies along the new ones: V'ᵀV from the same inner products.
    along = (axes / np.sqrt(values)).T @ weights @ inner[:, : old.k]
    lost = 1 - float(np.sum(along**2 * spread)) / float(spread.sum())
    calibration = _calibrated(rows, inner, wanted, false_match_rate) if n2 >= LEAST_HELD else None
    space = replace(space, metric=default_metric(std), calibration=calibration)
    return Update(space, max(0.0, lost), None if known is None else max(0.0, 1 - known))


class _Rows:
    """The rows [V ᵀ; z] (k + n₂, D) of which everything is a combination."""

    def __init__(self, old: WeightSpace, thetas: NDArray[np.float32]) -> None:
        self.old, self.thetas = old, thetas
        self.size = np.sqrt(old.fit_size - 1) * old.component_std.astype(np.float64)

    def combined(self, kept: NDArray[np.bool_]) -> Array:
        """Coefficients (k + q + 1, k + n₂) of the rows whose scatter is that of the old and of the q kept new ones."""
        k, n1, q = self.old.k, self.old.fit_size, int(kept.sum())
        new = np.zeros((q, len(kept)))
        new[np.arange(q), np.flatnonzero(kept)] = 1.0
        middle = kept / q
        out = np.zeros((k + q + 1, k + len(kept)))
        out[:k, :k] = np.diag(self.size)
        out[k : k + q, k:] = new - middle
        out[-1, k:] = np.sqrt(n1 * q / (n1 + q)) * middle
        return out

    def write(self, turn: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The combinations ``turn`` (k + n₂, k') as columns (D, k') float32, signed, and the new μ (D,)."""
        old, n2 = self.old, len(self.thetas)
        vectors = np.empty((old.dim, turn.shape[1]), np.float32)
        mean = np.empty(old.dim, np.float32)
        share = n2 / (old.fit_size + n2)
        for part, piece in _pieces(old, self.thetas):
            vectors[part] = piece.T @ turn
            moved = share * piece[old.k :].mean(axis=0)
            mean[part] = old.mean[part] + old.std[part].astype(np.float64) * moved
        turned = -vectors.min(axis=0) > vectors.max(axis=0)
        vectors[:, turned] *= -1
        return vectors, mean


def _pieces(old: WeightSpace, thetas: NDArray[np.float32]) -> Iterator[tuple[slice, Array]]:
    """The rows in column pieces, with their place."""
    for first in range(0, old.dim, _COLUMNS):
        part = slice(first, min(first + _COLUMNS, old.dim))
        std = old.std[part].astype(np.float64)
        inverse = np.divide(1.0, std, out=np.zeros_like(std), where=std != 0)
        z = (thetas[:, part] - old.mean[part].astype(np.float64)) * inverse
        yield part, np.concatenate([np.asarray(old.components[part], np.float64).T, z])


def _inner(old: WeightSpace, thetas: NDArray[np.float32]) -> Array:
    """Inner products (k + n₂, k + n₂) of the old axes and the new z."""
    total = np.zeros((old.k + len(thetas),) * 2)
    for _, piece in _pieces(old, thetas):
        total += piece @ piece.T
    return total


def _calibrated(rows: _Rows, inner: Array, wanted: int, false_match_rate: float) -> Calibration:
    """What scores new LoRAs that were left out have with those that were not, fold by fold."""
    k, n2 = rows.old.k, len(rows.thetas)
    impostors = []
    for fold in range(_FOLDS):
        kept = np.arange(n2) % _FOLDS != fold
        weights = rows.combined(kept)
        values, axes = np.linalg.eigh(weights @ inner @ weights.T)
        values, axes = values[::-1][:wanted], axes[:, ::-1][:, :wanted]
        turn = weights.T @ (axes / np.sqrt(np.maximum(values, 1e-300)))
        share = kept.sum() / (rows.old.fit_size + kept.sum())
        points = (inner[k:] @ turn) - share * (inner[k:][kept].mean(axis=0) @ turn)
        metric = default_metric(np.sqrt(values / (rows.old.fit_size + kept.sum() - 1)))
        unit = metric.unit(points.astype(np.float32))
        impostors.append((unit[~kept] @ unit[kept].T).astype(np.float64).reshape(-1))
    return calibrate_scores("half-whitened", np.concatenate(impostors), false_match_rate=false_match_rate)
