"""The safetensors container, read and written without torch: strict checks, bf16 through integers.

Source: the safetensors format (8-byte little-endian header length, JSON header, then the data; offsets are
relative to the data, without holes or overlaps). Nothing is allocated on the word of a header: every claim is
held against the size of the file first.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadLora
from w2w_registry.files import opened, why
from w2w_registry.lora.header import INTEGERS, BrokenHeader, Header, Shape, brief, tables_of

DType = Literal["fp32", "fp16", "bf16"]

MAX_HEADER = 100_000_000  # the limit the safetensors library itself sets
MAX_DATA = 16 * 2**30  # no adapter is larger; a sparse file may be of any length
_TAGS: dict[DType, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
_ARCHIVES = (b"Rar!", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_SQLITE = b"SQLite format 3\0"
_PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Mark:
    """By what a file is known again that this process read a while ago, so that it need not be hashed twice.

    ``place``: device, inode, size, and when its content and anything of it were last changed (ns). ``head``: SHA-256
    of what stands before the data; ``total``: the data's 64-bit words, summed, for a file that was changed within one
    tick of its clock. ``sha256`` (hex) is of its bytes.
    """

    place: tuple[int, ...]
    head: bytes
    total: int
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.place[2]


@dataclass(frozen=True)
class TensorData:
    """A whole file: its header, every value as float32 in the order of the data (read-only), the largest of them, signs
    aside, and by what the file is known again."""

    header: Header
    values: NDArray[np.float32]
    largest: float
    mark: Mark

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the file's bytes."""
        return self.mark.sha256

    @cached_property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The tensors by name, as views."""
        entries = self.header.entries
        return {
            name: self.values[place].reshape(entries[name].shape) for name, place in self.header.shape.places.items()
        }


def is_pickle_name(path: Path) -> bool:
    """Whether the file name says pickle; such files are refused unread where they do not begin as safetensors."""
    return path.suffix.lower() in _PICKLES


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name; False for what cannot be opened."""
    try:
        with opened(path, BadLora) as (stream, size):
            return _begins(stream.read(9), size)
    except (BadLora, OSError):
        return False


def is_database(path: Path) -> bool:
    """Whether a file is a database of SQLite, whatever its name; False for what cannot be opened."""
    try:
        with opened(path, BadLora) as (stream, _):
            return stream.read(len(_SQLITE)) == _SQLITE
    except (BadLora, OSError):
        return False


def _begins(start: bytes, size: int) -> bool:
    return int.from_bytes(start[:8], "little") <= size - 8 and start[8:9] == b"{"


def stat_path(path: Path) -> os.stat_result:
    """``os.stat`` with every failure told as BadLora."""
    try:
        return os.stat(path)
    except (OSError, ValueError) as error:
        raise BadLora(path=str(path), reason=why(error)) from None


def read_header(path: Path) -> Header:
    """The checked header alone; the data is not read.

    Raises:
        BadLora: with one reason.
    """
    with opened(path, BadLora) as (stream, size):
        return _header(path, stream, size, hashlib.sha256())


def read_tensors(path: Path, check: Callable[[Header], None], before: Mark | None = None) -> TensorData:
    """Every tensor as float32, plus the digest of the file, which is taken anew unless the file is still the one that
    was read ``before``.

    ``check`` sees the header before any data is read and refuses what is not wanted.

    Raises:
        BadLora: unreadable, not safetensors, broken header, unknown dtype, NaN or Inf.
    """
    digest = hashlib.sha256()
    with opened(path, BadLora) as (stream, size):
        place = _place(os.fstat(stream.fileno()))
        header = _header(path, stream, size, digest)
        check(header)
        if header.data_size > MAX_DATA:
            raise BadLora(path=str(path), reason=f"larger than any adapter ({header.data_size} bytes)")
        try:
            data = stream.read(header.data_size)
        except OSError as error:
            raise BadLora(path=str(path), reason=why(error)) from None
        if len(data) != header.data_size:
            raise BadLora(path=str(path), reason="truncated while it was read")
    mark = _marked(place, digest, data, before)
    values = _decoded(header.shape, data)
    # Both are NaN where a value is, and one is infinite where a value is.
    largest = max(float(values.max()), -float(values.min())) if values.size else 0.0
    if not math.isfinite(largest):
        for name, at in header.shape.places.items():
            if not np.isfinite(values[at]).all():
                raise BadLora(path=str(path), reason=f"{brief(name)} contains NaN or Inf")
    return TensorData(header, values, largest, mark)


def _place(info: os.stat_result) -> tuple[int, ...]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _marked(place: tuple[int, ...], digest: Any, data: bytes, before: Mark | None) -> Mark:
    """The mark of a file whose head is in ``digest`` and whose data follow; the one ``before`` where it is the same."""
    whole = len(data) // 8 * 8
    total = int(np.frombuffer(data, "<u8", whole // 8).sum(dtype=np.uint64)) ^ int.from_bytes(data[whole:], "little")
    head = digest.digest()
    if before is not None and (before.place, before.head, before.total) == (place, head, total):
        return before
    digest.update(data)
    return Mark(place, head, total, digest.hexdigest())


def encode(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], dtypes: Mapping[str, DType]) -> bytes:
    """The bytes of a safetensors file; the same input gives the same bytes.

    Tensors keep the order of ``arrays``; ``dtypes`` names each one's dtype on disk.

    Raises:
        OverflowError: naming a tensor whose values do not fit the dtype.
    """
    table: dict[str, Any] = {}
    if metadata:
        table["__metadata__"] = {k: metadata[k] for k in sorted(metadata)}
    blobs = []
    offset = 0
    for name, array in arrays.items():
        blob = _encode(name, np.asarray(array), dtypes[name])
        table[name] = {
            "dtype": _TAGS[dtypes[name]],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return b"".join([len(text).to_bytes(8, "little"), text, *blobs])


def round_to(array: NDArray[Any], dtype: DType) -> NDArray[np.float32]:
    """float32 values as they come back from a file of ``dtype`` (round to nearest, ties to even)."""
    values = np.ascontiguousarray(array, np.float32)
    if dtype == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        return _from_bf16(_to_bf16(values)).reshape(values.shape)
    return values


def _header(path: Path, stream: BinaryIO, size: int, digest: Any) -> Header:
    def bad(reason: str, hint: str | None = None) -> BadLora:
        return BadLora(path=str(path), reason=reason, **({"hint": hint} if hint else {}))

    if size == 0:
        raise bad("the file is empty")
    try:
        prefix = stream.read(8)
        start = prefix + stream.peek(512)[:512] if hasattr(stream, "peek") else prefix
        if start.startswith(_SQLITE):
            raise bad("a database (SQLite), as Draw Things keeps models in", "export it as safetensors there")
        if (is_pickle_name(path) and not _begins(start, size)) or _is_pickle(start, size):
            raise bad("a pickle file: it could run code when opened, so it is refused unread", "save it as safetensors")
        if len(prefix) < 8:
            raise bad("too short for a safetensors file")
        _no_other_file(start, bad)
        length = int.from_bytes(prefix, "little")
        if length > size - 8:
            raise bad(f"truncated, or not safetensors: its header claims {length} bytes, {size - 8} are there")
        if length > MAX_HEADER:
            raise bad(f"the header claims {length} bytes, more than the {MAX_HEADER} the format allows")
        text = stream.read(length)
    except OSError as error:
        raise bad(why(error)) from None
    digest.update(prefix)
    digest.update(text)
    try:
        shape, metadata = tables_of(text, size - 8 - length)
    except BrokenHeader as error:
        raise bad(str(error)) from None
    return Header(shape, metadata)


def _is_pickle(start: bytes, size: int) -> bool:
    """Whether a file begins as a pickle, or as the zip torch puts one in. A header of 640 bytes begins with a pickle's
    first two bytes too, and is told from it by the brace that follows its length."""
    # torch's zip begins with the pickle, in a folder of the file's name; what is cut off before that is taken for one.
    first, seen = int.from_bytes(start[26:28], "little"), start[30:]
    name = seen[:first]
    inside = b"/" in name and re.search(rb"[^/]\.\w+$", name) is None  # torch's other files have no ending
    packed = start[:2] == b"PK" and (first > len(seen) or inside or b".pkl" in name)
    magic = packed or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")
    return magic and not _begins(start, size)


def _no_other_file(start: bytes, bad: Callable[[str, str | None], BadLora]) -> None:
    """Name what often lies where a model should."""
    if start.startswith(b"version https://git-lfs"):
        raise bad("a Git LFS pointer, not the file it points to", "run git lfs pull where it came from")
    if start[:4] == b"PK\x03\x04":
        raise bad("a zip archive, not a model", "unpack it first")
    if start[257:262] == b"ustar" or start[:6] == b"7z\xbc\xaf\x27\x1c" or start.startswith(_ARCHIVES):
        raise bad("an archive, not a model", "unpack it first")
    if start.startswith(_PICTURES) or start[4:8] == b"ftyp" or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        raise bad("a picture or a film, not a model", None)
    if start and not any(start):
        raise bad("begins with zeros only, as a download that was not finished does", "download it again")
    if start[:4] == b"GGUF":
        raise bad("a GGUF file, which is of another program", None)
    if start.lstrip()[:1] == b"<" and b"html" in start.lower():
        raise bad("a web page, not a model (a download that asked for a login?)", None)
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start[:8]):
        words = brief(start[:72].decode("utf-8", "replace").strip())
        raise bad(f"a text, not a model (a download that was refused?): it begins with {words}", None)


def _decoded(shape: Shape, data: bytes) -> NDArray[np.float32]:
    """All values as float32, in the order of the data; read-only."""
    parts = [_decode(tag, data[start:end] if len(shape.runs) > 1 else data) for tag, start, end in shape.runs]
    values = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.float32), *parts])
    values.flags.writeable = False
    return values


def _decode(tag: str, data: bytes) -> NDArray[np.float32]:
    if tag == "F32":
        return np.frombuffer(data, "<f4")
    if tag == "BF16":
        return _from_bf16(np.frombuffer(data, "<u2"))
    if tag in INTEGERS:
        return np.frombuffer(data, INTEGERS[tag]).astype(np.float32)
    if tag.startswith("F8"):
        return np.asarray(_fp8(tag)[np.frombuffer(data, "u1")])
    with np.errstate(over="ignore"):
        return np.frombuffer(data, "<f2" if tag == "F16" else "<f8").astype(np.float32)


def encoded(values: NDArray[Any], dtype: DType) -> bytes:
    """The bytes of values in a file.

    Raises:
        OverflowError: some do not fit the dtype.
    """
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "fp32":
        return values.astype("<f4", copy=False).tobytes()
    rounded = round_to(values, dtype)
    if not np.isfinite(rounded).all():
        raise OverflowError(dtype)
    if dtype == "fp16":
        return rounded.astype("<f2").tobytes()
    return _to_bf16(values).astype("<u2", copy=False).tobytes()


def _encode(name: str, array: NDArray[Any], dtype: DType) -> bytes:
    try:
        return encoded(array, dtype)
    except OverflowError:
        raise OverflowError(f"{name} has values too large for {dtype}") from None


@cache
def _fp8(tag: str) -> NDArray[np.float32]:
    """The 256 values of an 8-bit float. E4M3 has no infinities (OCP 8-bit floating point specification); the FNUZ kinds
    have neither infinities nor a negative zero, whose code is their NaN, and one more exponent (arXiv 2206.02915)."""
    exponent_bits = 4 if tag.startswith("F8_E4M3") else 5
    fnuz = tag.endswith("FNUZ")
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - (0 if fnuz else 1)
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = (codes & (2**mantissa_bits - 1)) / 2.0**mantissa_bits
    values = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    top = exponent == 2**exponent_bits - 1
    if fnuz:
        values = np.where(codes == 128, np.nan, values)
    elif exponent_bits == 5:
        values = np.where(top, np.where(mantissa == 0, np.inf, np.nan), values)
    else:
        values = np.where(top & (codes & 7 == 7), np.nan, values)
    return np.where(codes >= 128, -values, values).astype(np.float32)


def _from_bf16(bits: NDArray[Any]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    # Ties go to the even neighbour: add half an ulp, less one when the kept part is even.
    bias = ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    return ((bits + bias) >> np.uint32(16)).astype(np.uint16)
