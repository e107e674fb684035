"""The public weights2weights release on disk (``mean.pt``, ``std.pt``, ``V.pt``…), read as a weight space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadFile, UsageError
from w2w_registry.files import read_text
from w2w_registry.lora.formats import read_keys
from w2w_registry.records import digest_of
from w2w_registry.services.recording.space_files import (
    _BLOCK,
)
from w2w_registry.services.spaces.torch_files import TorchFile
from w2w_registry.space.basis import WeightSpace, array_digest
from w2w_registry.space.layout import Layout, LayoutTensor
from w2w_registry.version import __version__


# -- the public release -------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Release:
    """The public weights2weights release, read.

    ``coordinates`` (n, k) float32 of its identities, None without ``proj_1000pc.pt``; ``labels`` column → values of
    ``identity_df.pt`` in the same order, empty without it; ``notes`` say what the files left open.
    """

    space: WeightSpace
    coordinates: NDArray[np.float32] | None
    labels: Mapping[str, list[Any]]
    notes: tuple[str, ...]


def read_w2w_release(
    folder: str | Path,
    components: int | None = None,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
    alpha: float | None = None,
) -> Release:
    """The space of a release folder, V left in its file.

    Needs ``mean.pt``, ``std.pt``, ``V.pt`` and ``weight_dimensions.pt``; uses ``adapter_config.json`` (base model and
    alpha), ``proj_1000pc.pt`` (spread of the coordinates) and ``identity_df.pt`` (labels) when they are there.

    σ keeps the sign the release gave it, negative values included: θ = (c Vᵀ)·σ + μ, with the release's own V, σ
    and coordinates, holds as it stands, and coordinates computed here equal the release's.

    Args:
        components: how many of V's columns to keep; None = as many as ``proj_1000pc.pt`` has, or 1,000 without it.
        base_model, base_revision, alpha: stand in for, and beat, ``adapter_config.json``.

    Raises:
        BadFile: a file is missing, broken, does not fit the others, or refers to code; nothing in it is run.
        UsageError: more components than V has, or no base model named anywhere.
    """
    root = Path(folder)
    config = _release_config(root)
    layout = _release_layout(root, config, alpha)
    named = base_model or config.get("base_model_name_or_path")
    if not named:
        raise UsageError(reason="the release does not name its base model", hint="say [[base-model]]")
    d = layout.dim
    mean, std = (_vector(root / name, d) for name in ("mean.pt", "std.pt"))
    if not std.all():
        zeros = f"{int((std == 0).sum())} of its numbers are 0, and everything is divided by them"
        raise BadFile(path=str(root / "std.pt"), reason=zeros)
    vectors = _basis(root / "V.pt", d)
    coordinates = _coordinates(root / "proj_1000pc.pt", vectors.shape[1])
    k = _kept(components, vectors.shape[1], coordinates)
    notes = _left_open(std, vectors.shape[1], None if coordinates is None else coordinates.shape[1], components, k)
    spread, centre = _spread(coordinates, k, notes)
    cut = None if coordinates is None else np.ascontiguousarray(coordinates[:, :k])
    labels = _labels(root / "identity_df.pt", coordinates)
    rows = len(coordinates) if coordinates is not None else len(next(iter(labels.values()), []))
    space = WeightSpace(
        base_model=str(named),
        base_revision=base_revision or config.get("revision"),
        layout=layout,
        mean=mean,
        std=std,
        components=_columns(vectors, k),
        component_std=spread,
        explained_variance_ratio=np.zeros(0, np.float32),
        fit_set_digest=digest_of(
            {"release": "weights2weights", "coordinates": None if coordinates is None else array_digest(coordinates)}
        ),
        fit_size=rows,
        software={"weights2weights": "public release", "w2w-registry": __version__},
        coordinate_mean=centre,
    )
    return Release(space, cut, labels, tuple(notes))


def _left_open(std: NDArray[np.float32], columns: int, known: int | None, components: int | None, k: int) -> list[str]:
    """What a reader should know of a release: negative σ, and components of V that are left out though nobody said."""
    notes = []
    negative = int((std < 0).sum())
    if negative:
        notes.append(
            f"{negative} of {len(std)} std values are negative; they are kept: the coordinates were computed with them"
        )
    if components is None and k < columns:
        points = "" if known is None else f", the release's own coordinates have {known}"
        notes.append(f"V has {columns} components{points}: the space keeps the first {k}")
    return notes


def _kept(components: int | None, columns: int, coordinates: NDArray[Any] | None) -> int:
    """How many of V's columns to keep. Raises UsageError."""
    known = columns if coordinates is None else coordinates.shape[1]
    k = min(known, 1000, columns) if components is None else components
    if not 1 <= k <= columns:
        raise UsageError(reason=f"{k} components asked, the release has 1 to {columns}")
    return k


def _basis(path: Path, dim: int) -> NDArray[Any]:
    vectors = TorchFile(path).array()
    if vectors.ndim != 2 or vectors.shape[0] != dim or vectors.dtype.kind != "f":
        raise BadFile(path=str(path), reason=f"V has shape {vectors.shape}, the layout needs ({dim}, k)")
    return vectors


def _labels(path: Path, coordinates: NDArray[np.float32] | None) -> dict[str, list[Any]]:
    labels = TorchFile(path).frame() if path.exists() else {}
    if coordinates is not None and any(len(values) != len(coordinates) for values in labels.values()):
        raise BadFile(path=str(path), reason=f"its rows are not the {len(coordinates)} of proj_1000pc.pt")
    return labels


def _release_config(root: Path) -> dict[str, Any]:
    path = root / "adapter_config.json"
    try:
        if not path.exists():
            return {}
        config = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise BadFile(path=str(path), reason="not valid JSON") from None
    if not isinstance(config, dict):
        raise BadFile(path=str(path), reason="not a table")
    return config


def _release_layout(root: Path, config: Mapping[str, Any], alpha: float | None) -> Layout:
    """The layout in the release's own order: key → (flat length at [0][0], shape at [1])."""
    file = TorchFile(root / "weight_dimensions.pt")
    tensors = []
    for key, value in file.mapping().items():
        with file.broken():
            length, shape = file.sizes(value[0])[0], file.sizes(value[1])
        named = next(iter(read_keys([key])[0].values()), None)
        if named is None or named.part != "unet" or named.role not in ("A", "B"):
            file.refuse(f"{key} is not a LoRA tensor")
        if int(np.prod(shape)) != length or len(shape) not in (2, 4):
            file.refuse(f"{key} has shape {shape} and length {length}")
        tensors.append(LayoutTensor(named.targets[0].module, "A" if named.role == "A" else "B", shape))
    scale = alpha if alpha is not None else config.get("lora_alpha")
    if not tensors or {t.factor for t in tensors} != {"A", "B"} or len({t.key for t in tensors}) != len(tensors):
        file.refuse("it does not list the factors of a LoRA")
    if not isinstance(scale, (int, float)) or not 0 < scale < 1e9:
        raise UsageError(reason="the release does not state its alpha", hint="put its adapter_config.json beside it")
    return Layout(tuple(tensors), float(scale))


def _vector(path: Path, d: int) -> NDArray[np.float32]:
    values = np.array(TorchFile(path).array(), np.float32).reshape(-1)
    if values.shape != (d,) or not np.isfinite(values).all():
        raise BadFile(path=str(path), reason=f"{values.size} numbers, or not all finite; the layout needs {d}")
    return values


def _coordinates(path: Path, columns: int) -> NDArray[Any] | None:
    if not path.exists():
        return None
    values = TorchFile(path).array()
    if values.ndim != 2 or values.dtype.kind != "f" or not 0 < values.shape[1] <= columns or len(values) < 2:
        raise BadFile(
            path=str(path), reason=f"coordinates of shape {values.shape} do not belong to V with {columns} columns"
        )
    step = max(1, _BLOCK // values.shape[1])
    odd = next((i for i in range(0, len(values), step) if not np.isfinite(values[i : i + step]).all()), None)
    if odd is not None:
        row = odd + int(np.argmin(np.isfinite(values[odd : odd + step]).all(1)))
        raise BadFile(path=str(path), reason=f"the coordinates in row {row} hold NaN or Inf")
    return values


def _spread(
    coordinates: NDArray[Any] | None, k: int, notes: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Component std (k,) and coordinate mean (k,) of the identities given; the rest is said, not guessed."""
    if coordinates is None:
        notes.append("without proj_1000pc.pt the spread of the coordinates is unknown: every component std is set to 1")
        return np.ones(k, np.float32), None
    known = min(k, coordinates.shape[1])
    total, squares = np.zeros(known), np.zeros(known)
    step = max(1, _BLOCK // known)
    for start in range(0, len(coordinates), step):
        total += coordinates[start : start + step, :known].sum(0, dtype=np.float64)
    mean = total / len(coordinates)
    for start in range(0, len(coordinates), step):
        squares += ((coordinates[start : start + step, :known] - mean) ** 2).sum(0)
    spread = np.sqrt(squares / (len(coordinates) - 1))
    if known < k:
        notes.append(
            f"the release gives coordinates for {known} components: the std of the other {k - known} is set to the "
            "last known one, which it cannot exceed as components fall in variance"
        )
        spread = np.concatenate([spread, np.full(k - known, spread[-1])])
        mean = np.concatenate([mean, np.zeros(k - known)])
    return spread.astype(np.float32), mean.astype(np.float32)


def _columns(vectors: NDArray[Any], k: int) -> NDArray[np.float32]:
    """The first k columns: a view of the file for float32, copied block by block for other floats."""
    if vectors.dtype == np.float32:
        return vectors[:, :k]
    out = np.empty((len(vectors), k), np.float32)
    step = max(1, _BLOCK // vectors.shape[1])
    for start in range(0, len(vectors), step):
        out[start : start + step] = vectors[start : start + step, :k]
    return out
