"""A weight space on disk, bit for bit.

One safetensors file says everything (arrays, and the rest as JSON in its header), with a copy of the JSON beside it
for people. A large V is written and read in blocks, and read back as a memory map.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadFile, BadLora, IntegrityError, storing
from w2w_registry.lora.header import Header
from w2w_registry.lora.tensorfile import read_header
from w2w_registry.records import canonical_json
from w2w_registry.space.basis import WeightSpace

SPACE_FILE, SPACE_JSON = "space.safetensors", "space.json"


_METADATA = "w2w_space"


_FORMAT = 1


_BLOCK = 1 << 22


_REQUIRED = ("mean", "std", "components", "component_std", "explained_variance_ratio")


_OPTIONAL = ("coordinate_mean", "repeat_reliability", "start")


# -- our own form -------------------------------------------------------------------------------
def write_space(folder: str | Path, space: WeightSpace) -> tuple[Path, Path]:
    """Write ``space.safetensors`` and ``space.json`` into ``folder``; the same space gives the same bytes.

    The safetensors file is complete in itself (it can be stored or sent alone) and appears whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    target = Path(folder)
    facts = {"format": _FORMAT, "digest": space.digest, **space.facts()}
    text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with storing(target):
        target.mkdir(parents=True, exist_ok=True)
        _replace(target / SPACE_FILE, _blocks(space, canonical_json(facts)))
        _replace(target / SPACE_JSON, iter([text.encode()]))
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
        space = WeightSpace.from_facts(facts, fields)
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
