"""Weight spaces on disk: our own form, bit for bit, and the public weights2weights release.

Our form is one safetensors file that says everything (arrays, and the rest as JSON in its header), with a copy of
the JSON beside it for people. A large V is written and read in blocks, and read back as a memory map.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry import __version__
from w2w_registry.errors import BadFile, BadLora, IntegrityError, StorageError, UsageError
from w2w_registry.lora.names import UnknownKey, parse_key
from w2w_registry.lora.tensorfile import Header, read_header
from w2w_registry.records import canonical_json, digest_of
from w2w_registry.services.spaces.torch_files import TorchFile
from w2w_registry.space.basis import WeightSpace, array_digest
from w2w_registry.space.layout import Layout, LayoutTensor
from w2w_registry.space.metrics import Calibration, Metric

SPACE_FILE, SPACE_JSON = "space.safetensors", "space.json"
_METADATA = "w2w_space"
_FORMAT = 1
_BLOCK = 1 << 22
_REQUIRED = ("mean", "std", "components", "component_std", "explained_variance_ratio")
_OPTIONAL = ("coordinate_mean", "repeat_reliability")


def read_any_space(
    path: str | Path, *, components: int | None = None, base_model: str | None = None, base_revision: str | None = None
) -> WeightSpace:
    """A space from our own form or from a release folder, whichever ``path`` is.

    Args:
        components: how many to keep; None = all (of a release: as many as it gives coordinates for).
        base_model, base_revision: for a release that does not name its base.

    Raises:
        BadFile, IntegrityError, UsageError: as :func:`read_space` and :func:`read_w2w_release`.
    """
    given = Path(path)
    if (given / "V.pt").exists() and not (given / SPACE_FILE).exists():
        return read_w2w_release(given, components, base_model=base_model, base_revision=base_revision).space
    space = read_space(given)
    if components is None or components == space.k:
        return space
    if not 1 <= components <= space.k:
        raise UsageError(reason=f"{components} components asked, the space has 1 to {space.k}")
    return space.truncated(components)


# -- our own form -------------------------------------------------------------------------------
def write_space(folder: str | Path, space: WeightSpace) -> tuple[Path, Path]:
    """Write ``space.safetensors`` and ``space.json`` into ``folder``; the same space gives the same bytes.

    The safetensors file is complete in itself (it can be stored or sent alone) and appears whole or not at all.

    Raises:
        StorageError: the disk said no.
    """
    target = Path(folder)
    facts = {"format": _FORMAT, "digest": space.digest, **space.facts()}
    text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        target.mkdir(parents=True, exist_ok=True)
        _replace(target / SPACE_FILE, _blocks(space, canonical_json(facts)))
        _replace(target / SPACE_JSON, iter([text.encode()]))
    except OSError as error:
        raise StorageError(path=str(target), reason=error.strerror or str(error)) from None
    return target / SPACE_FILE, target / SPACE_JSON


def read_space(path: str | Path, *, mmap: bool = True, verify: bool = True) -> WeightSpace:
    """Read a space back, bit for bit.

    Args:
        path: the folder, or the safetensors file under whatever name.
        mmap: leave the arrays in the file until they are used; False copies them into memory.
        verify: hold every array against the recorded digest, which reads the whole file once.

    Raises:
        BadFile: not a weight-space file. IntegrityError: the content is not what was written.
    """
    given = Path(path)
    file = given / SPACE_FILE if given.is_dir() else given
    header = _space_header(file)
    try:
        facts = json.loads(header.metadata[_METADATA])
        if facts["format"] != _FORMAT:
            raise BadFile(
                path=str(file), reason=f"a weight space in form {facts['format']}, this release reads {_FORMAT}"
            )
        start = file.stat().st_size - header.data_size
        arrays = {name: _mapped(file, header, name, start) for name in header.entries}
        if not mmap:
            arrays = {name: np.array(array) for name, array in arrays.items()}
        fields: dict[str, Any] = {name: arrays[name] for name in _REQUIRED}
        fields |= {name: arrays.get(name) for name in _OPTIONAL}
        space = WeightSpace(
            base_model=facts["base_model"],
            base_revision=facts["base_revision"],
            layout=Layout.from_json(facts["layout"]),
            fit_set_digest=facts["fit_set_digest"],
            fit_size=facts["fit_size"],
            software=facts["software"],
            metric=Metric.from_json(facts["metric"]) if facts["metric"] else None,
            calibration=Calibration.from_json(facts["calibration"]) if facts["calibration"] else None,
            **fields,
        )
        recorded = str(facts["digest"])
    except (KeyError, ValueError, TypeError) as error:
        raise BadFile(path=str(file), reason=f"its description is broken ({type(error).__name__}: {error})") from None
    if verify and space.digest != recorded:
        raise IntegrityError(what="weight space", name=str(file), expected=recorded, found=space.digest)
    if not verify:
        # What was recorded stands in for reading the whole of V; nothing else may depend on it being checked.
        space.__dict__["digest"] = recorded
    return space


def _space_header(file: Path) -> Header:
    try:
        header = read_header(file)
    except BadLora as error:
        raise BadFile(**error.fields) from None
    if _METADATA not in header.metadata:
        raise BadFile(path=str(file), reason="a safetensors file, but not a weight space")
    known = set(_REQUIRED) | set(_OPTIONAL)
    if any(entry.dtype != "F32" for entry in header.entries.values()) or not set(header.entries) <= known:
        raise BadFile(path=str(file), reason="holds arrays that no weight space has")
    return header


def _mapped(file: Path, header: Header, name: str, start: int) -> NDArray[np.float32]:
    entry = header.entries[name]
    if not entry.end > entry.start:
        return np.zeros(entry.shape, np.float32)
    return np.memmap(file, "<f4", "r", start + entry.start, entry.shape)


def _blocks(space: WeightSpace, facts: str) -> Iterator[bytes]:
    arrays = space.arrays()
    order = sorted(arrays, key=lambda name: (name == "components", name))
    table: dict[str, Any] = {"__metadata__": {_METADATA: facts}}
    place = 0
    for name in order:
        size = 4 * arrays[name].size
        table[name] = {"dtype": "F32", "shape": list(arrays[name].shape), "data_offsets": [place, place + size]}
        place += size
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for name in order:
        array = arrays[name]
        step = max(1, _BLOCK // max(1, int(np.prod(array.shape[1:]))))
        for first in range(0, array.shape[0], step):
            yield np.ascontiguousarray(array[first : first + step], "<f4").tobytes()


def _replace(path: Path, blocks: Iterator[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb") as stream:
            stream.writelines(blocks)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    layout = _release_layout(root, _release_config(root), alpha)
    named = base_model or _release_config(root).get("base_model_name_or_path")
    if not named:
        raise UsageError(reason="the release does not name its base model", hint="say --base-model")
    d = layout.dim
    mean, std = (_vector(root / name, d) for name in ("mean.pt", "std.pt"))
    vectors = TorchFile(root / "V.pt").array()
    if vectors.ndim != 2 or vectors.shape[0] != d or vectors.dtype.kind != "f":
        raise BadFile(path=str(root / "V.pt"), reason=f"V has shape {vectors.shape}, the layout needs ({d}, k)")
    coordinates = _coordinates(root / "proj_1000pc.pt", vectors.shape[1])
    known = vectors.shape[1] if coordinates is None else coordinates.shape[1]
    k = min(known, 1000, vectors.shape[1]) if components is None else components
    if not 1 <= k <= vectors.shape[1]:
        raise UsageError(reason=f"{k} components asked, the release has 1 to {vectors.shape[1]}")
    notes = []
    if (std < 0).any():
        notes.append(f"{int((std < 0).sum())} of {d} std values are negative and kept so, as its coordinates need")
    spread, centre = _spread(coordinates, k, notes)
    cut = None if coordinates is None else np.ascontiguousarray(coordinates[:, :k])
    labels = TorchFile(root / "identity_df.pt").frame() if (root / "identity_df.pt").exists() else {}
    if coordinates is not None and any(len(values) != len(coordinates) for values in labels.values()):
        raise BadFile(
            path=str(root / "identity_df.pt"), reason=f"its rows are not the {len(coordinates)} of proj_1000pc.pt"
        )
    rows = len(coordinates) if coordinates is not None else len(next(iter(labels.values()), []))
    space = WeightSpace(
        base_model=str(named),
        base_revision=base_revision or _release_config(root).get("revision"),
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


def read_point(path: str | Path) -> NDArray[np.float32]:
    """Coordinates (k,) from a ``w2wmodel.pt`` (1 × k)."""
    file = TorchFile(path)
    values = file.array()
    if values.dtype.kind != "f" or values.size != max(values.shape, default=0) or not np.isfinite(values).all():
        file.refuse(f"a point is one row of numbers, this has shape {values.shape}")
    return np.array(values, np.float32).reshape(-1)


def _release_config(root: Path) -> dict[str, Any]:
    path = root / "adapter_config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadFile(path=str(path), reason=error.strerror or str(error)) from None
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
        try:
            parts = parse_key(key)
        except UnknownKey as error:
            file.refuse(f"{key} is {error}")
        if parts.role == "alpha" or int(np.prod(shape)) != length or len(shape) not in (2, 4):
            file.refuse(f"{key} has shape {shape} and length {length}")
        tensors.append(LayoutTensor(parts.module, parts.role, shape))
    scale = alpha if alpha is not None else config.get("lora_alpha")
    if not tensors or {t.factor for t in tensors} != {"A", "B"} or len({t.key for t in tensors}) != len(tensors):
        file.refuse("it does not list the factors of a LoRA")
    if not isinstance(scale, (int, float)) or not 0 < scale < 1e9:
        raise UsageError(reason="the release does not say its alpha", hint="put its adapter_config.json beside it")
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
