"""Writing a LoRA so that PEFT, diffusers and kohya's tools load it with the same ΔW, alpha included: each format in its
own module says what is written (``write``), here is what they share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadLora, UsageError, storage_error
from w2w_registry.lora.formats import FORMATS, diffusers
from w2w_registry.lora.formats.part import Part, Written
from w2w_registry.lora.names import denoiser_of
from w2w_registry.lora.read import Beside, LoraFile
from w2w_registry.lora.tensorfile import DType, encode, encoded
from w2w_registry.lora.unets import UnknownKey
from w2w_registry.space.layout import TensorKey, module_order

WRITTEN: dict[str, ModuleType] = {form.NAME: form for form in FORMATS if hasattr(form, "write")}
"""The formats that are written too, by name."""


def write_lora(
    out: str | Path,
    lora: LoraFile | Mapping[TensorKey, NDArray[Any]],
    alpha: float | Mapping[str, float] | None = None,
    *,
    fmt: str = "peft",
    dtype: DType = "fp32",
    base_model: str | None = None,
    revision: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Write a LoRA; the same input gives the same bytes, and a crash leaves no half-written LoRA.

    Takes what :func:`lora_files` takes, and raises what it raises.

    Returns:
        The files written; ``read_lora(out)`` reads them back.

    Raises:
        StorageError: the files cannot be written.
    """
    contents = lora_files(
        out, lora, alpha, fmt=fmt, dtype=dtype, base_model=base_model, revision=revision, metadata=metadata
    )
    _write(contents)
    return tuple(contents)


def lora_files(
    out: str | Path,
    lora: LoraFile | Mapping[TensorKey, NDArray[Any]],
    alpha: float | Mapping[str, float] | None = None,
    *,
    fmt: str = "peft",
    dtype: DType = "fp32",
    base_model: str | None = None,
    revision: str | None = None,
    metadata: Mapping[str, str] | None = None,
    beside: Sequence[Beside] | None = None,
) -> dict[Path, bytes]:
    """The files a LoRA is written as, by path; nothing is written.

    Args:
        out: a folder, or for ``diffusers`` and ``kohya`` also a ``.safetensors`` file. A folder gets
            ``adapter_model.safetensors`` + ``adapter_config.json`` (peft), ``pytorch_lora_weights.safetensors``
            (diffusers) or ``lora.safetensors`` (kohya); in PEFT's form, which is of one model, each further part of
            the pipeline gets a folder of its name.
        lora: what ``read_lora`` gave, or tensors by (module, "A" | "B").
        alpha: of all modules or by module; None takes the LoraFile's own, and rank for bare tensors.
        base_model, revision: what the LoRA belongs to; None takes the LoraFile's own.
        metadata: further texts for the safetensors header.
        beside: its shares in other parts of the pipeline; None takes the LoraFile's own.

    Raises:
        BadLora: tensors that do not pair, values too large for ``dtype``, a module kohya names cannot carry.
        UsageError: a ``.safetensors`` file asked for in PEFT form.
    """
    target = Path(out)
    is_file = target.suffix.lower() == ".safetensors"
    tensors = dict(lora.tensors if isinstance(lora, LoraFile) else lora)
    if isinstance(lora, LoraFile):
        base_model, revision = base_model or lora.base_model, revision or lora.base_revision
        beside = lora.beside if beside is None else beside
    if fmt == "diffusers" and not beside:
        alike = _written_alike(lora, tensors, alpha, dtype, base_model, revision, metadata, bytearray())
        if alike is not None:
            return {target if is_file else target / diffusers.FILE: bytes(alike)}
    modules = _modules(target, tensors)
    ranks = {m: int(tensors[(m, "A")].shape[0]) for m in modules}
    parts = [Part(denoiser_of(modules), _in_order(modules, tensors), _alphas(lora, alpha, ranks), base_model, revision)]
    for one in beside or ():
        ordered = _in_order(_modules(target, one.tensors), one.tensors)
        parts.append(Part(one.part, ordered, one.alphas, base_model, revision))
    try:
        found: dict[str, Written] = WRITTEN[fmt].write(parts)
    except UnknownKey as error:
        raise BadLora(path=str(target), reason=str(error)) from None
    if is_file and (len(found) > 1 or found[""].beside):
        raise UsageError(reason=f"{target} names a file, but the form {fmt} is a folder")
    files: dict[Path, bytes] = {}
    for folder, one_file in found.items():
        path = target if is_file else target / folder / WRITTEN[fmt].FILE
        files[path] = _encoded(target, one_file.tensors, one_file.header, metadata, dtype)
        files |= {path.parent / name: content for name, content in one_file.beside.items()}
    return files


def written_in(room: bytearray, lora: LoraFile, dtype: DType) -> memoryview | bytes:
    """The one file of a LoRA in diffusers' form, as :func:`lora_files` gives it: in ``room``, which grows where it is
    too short, and until that is used again. To write thousands one after another into the same memory takes a third of
    the time.

    Raises:
        BadLora: as :func:`lora_files`.
    """
    if not lora.beside:
        base, revision = lora.base_model, lora.base_revision
        found = _written_alike(lora, lora.tensors, None, dtype, base, revision, None, room)
        if found is not None:
            return found
    (data,) = lora_files("lora.safetensors", lora, fmt="diffusers", dtype=dtype).values()
    return data


def _written_alike(
    lora: LoraFile | Mapping[TensorKey, NDArray[Any]],
    tensors: Mapping[TensorKey, NDArray[Any]],
    alpha: float | Mapping[str, float] | None,
    dtype: DType,
    base_model: str | None,
    revision: str | None,
    metadata: Mapping[str, str] | None,
    room: bytearray,
) -> memoryview | None:
    """The file of a LoRA in diffusers' form, by what was worked out for another of these shapes and settings; None
    where there is more to it, or something wrong with it."""
    if not tensors:
        return None
    if alpha is None:
        alpha = lora.alphas if isinstance(lora, LoraFile) else None
    alphas = tuple(alpha.items()) if isinstance(alpha, Mapping) else alpha
    shapes = tuple((key, array.shape) for key, array in tensors.items())
    try:
        start, order = _start_of(shapes, alphas, dtype, base_model, revision, tuple((metadata or {}).items()))
        parts = [tensors[key].reshape(-1) for key in order]
        stop = len(start) + 4 * sum(part.size for part in parts)
        if len(room) < stop:
            room.extend(bytes(stop - len(room)))
        whole = memoryview(room)
        values = np.frombuffer(whole[len(start) : stop], "<f4")
        np.concatenate(parts, out=values, casting="unsafe")
        if not np.isfinite(values).all():
            return None
        if dtype != "fp32":
            data = encoded(values, dtype)
            stop = len(start) + len(data)
            whole[len(start) : stop] = data
        whole[: len(start)] = start
        return whole[:stop]
    except (BadLora, OverflowError):
        return None


@lru_cache(maxsize=16)
def _start_of(
    shapes: tuple[tuple[TensorKey, tuple[int, ...]], ...],
    alphas: tuple[tuple[str, float], ...] | float | None,
    dtype: DType,
    base_model: str | None,
    revision: str | None,
    metadata: tuple[tuple[str, str], ...],
) -> tuple[bytes, tuple[TensorKey, ...]]:
    """What a file in diffusers' form says before its numbers, and the tensors whose numbers follow, in order: neither
    depends on the numbers."""
    zeros = {key: np.zeros(shape, np.float32) for key, shape in shapes}
    modules = _modules(Path(), zeros)
    ranks = {module: int(zeros[(module, "A")].shape[0]) for module in modules}
    if isinstance(alphas, tuple):
        given = dict(alphas)
        by_module = {module: float(given[module]) for module in modules}
    else:
        by_module = {module: float(ranks[module] if alphas is None else alphas) for module in modules}
    part = Part(denoiser_of(modules), _in_order(modules, zeros), by_module, base_model, revision)
    written = diffusers.write([part])[""]
    data = _encoded(Path(), written.tensors, written.header, dict(metadata), dtype)
    return data[: 8 + int.from_bytes(data[:8], "little")], tuple(part.tensors)


def _in_order(modules: Sequence[str], tensors: Mapping[TensorKey, NDArray[Any]]) -> dict[TensorKey, NDArray[Any]]:
    return {(module, factor): tensors[(module, factor)] for module in modules for factor in ("A", "B")}


def _encoded(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    header: Mapping[str, str],
    metadata: Mapping[str, str] | None,
    dtype: DType,
) -> bytes:
    dtypes: dict[str, DType] = {name: "fp32" if name.endswith(".alpha") else dtype for name in arrays}
    try:
        return encode(arrays, {"format": "pt", **header, **(metadata or {})}, dtypes)
    except OverflowError as error:
        raise BadLora(path=str(path), reason=str(error)) from None


def _modules(path: Path, tensors: Mapping[TensorKey, NDArray[Any]]) -> list[str]:
    modules = sorted({m for m, _ in tensors}, key=lambda m: (module_order(m), m))
    if not modules:
        raise BadLora(path=str(path), reason="no tensors to write")
    for module in modules:
        a, b = tensors.get((module, "A")), tensors.get((module, "B"))
        if a is None or b is None:
            raise BadLora(path=str(path), reason=f"{module} lacks its {'A' if a is None else 'B'}")
        if a.ndim != b.ndim or a.ndim not in (2, 4) or a.shape[0] != b.shape[1]:
            raise BadLora(path=str(path), reason=f"{module}: shapes A {a.shape} and B {b.shape} do not make a LoRA")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise BadLora(path=str(path), reason=f"{module} contains NaN or Inf")
    return modules


def _alphas(
    lora: LoraFile | Mapping[TensorKey, NDArray[Any]],
    alpha: float | Mapping[str, float] | None,
    ranks: Mapping[str, int],
) -> dict[str, float]:
    if alpha is None:
        alpha = lora.alphas if isinstance(lora, LoraFile) else {m: float(r) for m, r in ranks.items()}
    if isinstance(alpha, Mapping):
        return {m: float(alpha[m]) for m in ranks}
    return dict.fromkeys(ranks, float(alpha))


def _write(contents: Mapping[Path, bytes]) -> None:
    """Put all files in place, tensors last: what lies there is the old LoRA, the new one, or none."""
    temporary: dict[Path, Path] = {}
    tensor_file = next(iter(contents))
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path] = path.with_name(f".{uuid.uuid4().hex}.tmp")
            with open(temporary[path], "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        if len(contents) > 1:
            # New settings beside old tensors would be another model: have none for that instant.
            tensor_file.unlink(missing_ok=True)
        for path in reversed(list(contents)):
            os.replace(temporary[path], path)
    except OSError as error:
        raise storage_error(tensor_file, error) from None
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
