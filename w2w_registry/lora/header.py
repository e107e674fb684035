"""The header of a safetensors file: what it says of the tensors, checked, and its metadata.

Source: the safetensors format: JSON, offsets relative to the data, without holes or overlaps. Every claim is held
against the size of the file, and what one header says is worked out once for all files that have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

FLOATS = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2},
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
}
INTEGERS = {
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "BOOL": "?"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}
_ITEM_SIZE = {**FLOATS, **{tag: np.dtype(kind).itemsize for tag, kind in INTEGERS.items()}}
DTYPE_NAMES = {
    **{"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"},
    **{tag: "fp8" for tag in FLOATS if tag.startswith("F8")},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a header: dtype tag, shape and its bytes ``[start, end)`` in the data part."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Shape:
    """What a checked header says of the tensors: files of one training share it. ``entries`` by name; ``data_size``:
    the length of the data part in bytes."""

    entries: Mapping[str, TensorEntry]
    data_size: int

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where each tensor's values are among all values, in the order of the data."""
        found, start = {}, 0
        for name, entry in sorted(self.entries.items(), key=lambda item: (item[1].start, item[1].end)):
            size = math.prod(entry.shape)
            found[name] = slice(start, start + size)
            start += size
        return {name: found[name] for name in self.entries}

    @cached_property
    def runs(self) -> tuple[tuple[str, int, int], ...]:
        """The data as stretches of one dtype: (tag, first byte, byte after the last), in order."""
        found: list[tuple[str, int, int]] = []
        for entry in sorted(self.entries.values(), key=lambda entry: (entry.start, entry.end)):
            if found and found[-1][0] == entry.dtype:
                found[-1] = (entry.dtype, found[-1][1], entry.end)
            else:
                found.append((entry.dtype, entry.start, entry.end))
        return tuple(found)


@dataclass(frozen=True)
class Header:
    """A checked safetensors header: its tensors (``shape``) and its metadata."""

    shape: Shape
    metadata: Mapping[str, str]

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        return self.shape.entries

    @property
    def data_size(self) -> int:
        """The length of the data part in bytes."""
        return self.shape.data_size


def brief(text: str, limit: int = 120) -> str:
    """A stranger's text as one short printable phrase."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in short)


class BrokenHeader(Exception):
    """A header that is none; the argument says why, in a phrase."""


_FIRST = '{"__metadata__":'
_USUAL = 1_000_000
"""Characters of a header worth remembering; the largest LoRAs' have half of that."""


def tables_of(text: bytes, data_size: int) -> tuple[Shape, dict[str, str]]:
    """The checked shape and metadata of a header, given as its text and the length of the data that follow.

    Files of one training differ in their metadata and not in their tensors, and metadata comes first in what
    safetensors writes: the rest is read and checked once.

    Raises:
        BrokenHeader: naming the first thing wrong.
    """
    try:
        whole = text.decode("utf-8")
    except ValueError:
        raise BrokenHeader("not a safetensors file: the header is not valid JSON") from None
    apart = _apart(whole)
    if apart is not None and len(apart[0]) <= _USUAL:
        try:
            shape, again = _remembered(apart[0], data_size)
            if again is None:
                return shape, apart[1]
        except BrokenHeader:
            pass  # the whole says what comes first
    shape, metadata = (_remembered if len(whole) <= _USUAL else _read_table)(whole, data_size)
    return shape, metadata or {}


def _apart(text: str) -> tuple[str, dict[str, str]] | None:
    """A header as (the same without metadata, its metadata); None where metadata does not come first, or is none."""
    if not text.startswith(_FIRST):
        return None
    try:
        metadata, end = _DECODER.raw_decode(text, len(_FIRST))
    except (ValueError, RecursionError):
        return None
    if not _texts(metadata) or text[end : end + 2] != ',"':
        return None
    return "{" + text[end + 1 :].rstrip(" "), metadata


def _read_table(text: str, data_size: int) -> tuple[Shape, dict[str, str] | None]:
    """What a header says, checked; None for metadata that is not there. Depends on nothing else."""
    try:
        table = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise BrokenHeader("not a safetensors file: the header is not valid JSON") from None
    if not isinstance(table, dict):
        raise BrokenHeader("not a safetensors file: the header is not a table")
    there = "__metadata__" in table
    metadata = table.pop("__metadata__") if there else None
    if there and not _texts(metadata):
        raise BrokenHeader("the header's metadata is not a table of texts")
    entries = {name: _entry(name, raw, data_size) for name, raw in table.items()}
    _check_offsets(entries, data_size)
    return Shape(MappingProxyType(entries), data_size), metadata


_remembered = lru_cache(maxsize=32)(_read_table)


def _texts(table: Any) -> bool:
    return isinstance(table, dict) and all(isinstance(value, str) for value in table.values())


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates)


def _entry(name: str, raw: Any, data_size: int) -> TensorEntry:
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise BrokenHeader(f"broken header entry for {brief(name)}")
    shape, offsets, dtype = raw["shape"], raw["data_offsets"], raw["dtype"]
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise BrokenHeader(f"broken shape or offsets for {brief(name)}")
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZE:
        raise BrokenHeader(f"{brief(name)} has dtype {brief(str(dtype), 20)}, expected fp32, fp16, bf16, fp64 or fp8")
    start, end = offsets
    if not start <= end <= data_size:
        raise BrokenHeader(f"truncated: {brief(name)} claims bytes {start}-{end}, the file has {data_size}")
    if math.prod(shape) * _ITEM_SIZE[dtype] != end - start:
        raise BrokenHeader(f"{brief(name)} has shape {tuple(shape)} but {end - start} bytes of {DTYPE_NAMES[dtype]}")
    return TensorEntry(dtype, tuple(shape), start, end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _check_offsets(entries: Mapping[str, TensorEntry], data_size: int) -> None:
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start < place:
            raise BrokenHeader(f"overlapping tensors: {brief(name)} starts inside the one before it")
        if entry.start > place:
            raise BrokenHeader(f"{entry.start - place} bytes before {brief(name)} belong to no tensor")
        place = entry.end
    if place != data_size:
        raise BrokenHeader(f"{data_size - place} bytes at the end belong to no tensor")
