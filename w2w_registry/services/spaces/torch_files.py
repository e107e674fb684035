"""Reading ``torch.save`` files without torch, and without running anything that is in them.

A pickle is a program: loading one can run any code. Here its calls are only noted (``inert_pickle``), and what a few
known ones mean (a tensor, a storage, a numpy array, a pandas frame) is worked out afterwards. Tensors come back as
views on a memory map of the file.

Sources: the pickle protocol (PEP 307, PEP 3154); torch's zip layout (``<name>/data.pkl`` and
``<name>/data/<key>``, stored uncompressed); numpy's and pandas' reduce forms as written by pandas 1.5 to 2.2.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadFile
from w2w_registry.files import opened
from w2w_registry.services.spaces.inert_pickle import Call, Persistent, describe

_STORAGES = {
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "bf16",
    "torch DoubleStorage": "<f8",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch.storage UntypedStorage": "u1",
}
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_SIZE = "torch Size"
_ORDERED = "collections OrderedDict"
_FRAME = "pandas.core.frame DataFrame"
_MANAGER = "pandas.core.internals.managers BlockManager"
_BLOCK = "pandas._libs.internals _unpickle_block"
_NEW_INDEX = "pandas.core.indexes.base _new_Index"
_NDARRAYS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_SCALARS = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar")
_DTYPE = "numpy dtype"
_SLICES = ("__builtin__ slice", "builtins slice")
_ENCODE = "_codecs encode"
_INDEXES = ("base Index", "range RangeIndex", "numeric Int64Index")
_NAMES_ONLY = ("numpy ndarray", *(f"pandas.core.indexes.{name}" for name in _INDEXES))
_CALLS = (_TENSOR, _PARAMETER, _SIZE, _ORDERED, _FRAME, _MANAGER, _BLOCK, _NEW_INDEX, _DTYPE, _ENCODE)
KNOWN = frozenset([*_STORAGES, *_CALLS, *_NDARRAYS, *_SCALARS, *_SLICES, *_NAMES_ONLY])

_MAX_PICKLE = 256 * 2**20
_MAX_MEMBERS = 100_000
_BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    OverflowError,
    AttributeError,
    NotImplementedError,
    EOFError,
    RecursionError,
)


class TorchFile:
    """A ``torch.save`` file, opened without torch; ``root`` is what it describes.

    Raises:
        BadFile: not a torch zip file, a name outside the known ones, or anything broken.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with opened(self.path) as (stream, _), zipfile.ZipFile(stream) as archive:
                infos = archive.infolist()
                if len(infos) > _MAX_MEMBERS:
                    self.refuse(f"{len(infos)} members, too many for a torch file")
                self._members = {info.filename.split("/", 1)[-1]: info for info in infos}
                program = self._members.get("data.pkl")
                if program is None:
                    self.refuse("not a torch file: it has no data.pkl")
                if program.file_size > _MAX_PICKLE or program.compress_type != zipfile.ZIP_STORED:
                    self.refuse("its description is too large, or compressed")
                text = archive.read(program)
                order = self._members.get("byteorder")
                if order is not None and archive.read(order)[:6] != b"little":
                    self.refuse("it was written on a big-endian machine")
        except OSError as error:
            self.refuse(error.strerror or str(error))
        except _BROKEN as error:
            legacy = self._starts_with(b"\x80")
            self.refuse(
                "a pickle, or a torch file from before version 1.6: both could run code, so it is refused unread"
                if legacy
                else f"not a torch file ({error})"
            )
        with self.broken():
            self.root = describe(text, KNOWN, self.refuse)

    def refuse(self, reason: str) -> NoReturn:
        line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in reason)
        raise BadFile(path=str(self.path), reason=line[:300]) from None

    def broken(self) -> _Broken:
        return _Broken(self)

    def array(self, node: Any = None) -> NDArray[Any]:
        """A tensor, parameter or bare storage as a read-only view of the file; bf16 is copied to float32.

        An untyped storage is taken as float32, which is what the public release saved that way.
        """
        with self.broken():
            return self._array(self.root if node is None else node)

    def mapping(self) -> dict[str, Any]:
        """The root as a mapping with text keys (a dict or an OrderedDict), its values as noted."""
        root = self.root.items if isinstance(self.root, Call) and self.root.name == _ORDERED else self.root
        if not isinstance(root, dict) or not all(isinstance(key, str) for key in root):
            self.refuse("it holds no table of names")
        return root

    def sizes(self, node: Any) -> tuple[int, ...]:
        """A ``torch.Size``, tuple, list or single number of sizes."""
        if isinstance(node, Call) and node.name == _SIZE:
            (node,) = node.args
        if type(node) is int:
            node = (node,)
        if not isinstance(node, (tuple, list)) or not all(type(n) is int and 0 <= n < 2**40 for n in node):
            self.refuse("a size is not a row of whole numbers")
        return tuple(node)

    def frame(self) -> dict[str, list[Any]]:
        """A pandas frame as column name → values; a named index becomes a column too."""
        with self.broken():
            return _Frame(self).columns()

    def _array(self, node: Any) -> NDArray[Any]:
        if isinstance(node, Call) and node.name == _PARAMETER:
            node = node.args[0]
        if isinstance(node, Persistent):
            return self._storage(node)
        if not isinstance(node, Call) or node.name != _TENSOR:
            self.refuse("it holds no tensor")
        storage = self._storage(node.args[0])
        offset, shape, stride = node.args[1], self.sizes(node.args[2]), self.sizes(node.args[3])
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        if 0 in shape:
            return np.zeros(shape, storage.dtype)
        if type(offset) is not int or offset < 0 or last >= storage.size:
            self.refuse("a tensor reaches beyond its data")
        steps = tuple(s * storage.itemsize for s in stride)
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)

    def _storage(self, reference: Any) -> NDArray[Any]:
        if not isinstance(reference, Persistent) or not isinstance(reference.id, tuple) or len(reference.id) != 5:
            self.refuse("a storage is described in an unknown way")
        tag, kind, key, _, count = reference.id
        dtype = _STORAGES.get(kind.name) if _names(kind) else None
        member = self._members.get(f"data/{key}")
        if tag != "storage" or dtype is None or member is None or type(count) is not int or count < 0:
            self.refuse("a storage is described in an unknown way, or missing")
        if member.compress_type != zipfile.ZIP_STORED:
            self.refuse("its data is compressed, which torch never does")
        item = 2 if dtype == "bf16" else np.dtype(dtype).itemsize
        if count * item > member.file_size:
            self.refuse("truncated: its data is shorter than described")
        if count == 0:
            return np.zeros(0, np.float32)
        with opened(self.path) as (stream, _):
            raw = np.memmap(stream, "<u2" if dtype == "bf16" else dtype, "r", _place(self, stream, member), (count,))
        if dtype == "bf16":
            return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return raw.view("<f4") if dtype == "u1" else raw

    def _starts_with(self, mark: bytes) -> bool:
        try:
            with opened(self.path) as (stream, _):
                return stream.read(len(mark)) == mark
        except (OSError, BadFile):
            return False


def _place(file: TorchFile, stream: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where a member's data starts: behind its local header, whose name and extra field have their own lengths."""
    stream.seek(member.header_offset)
    local = stream.read(30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        file.refuse("truncated: a member is not where the file says")
    name, extra = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
    return member.header_offset + 30 + name + extra


def _names(node: Any) -> bool:
    """Whether it is a name that is only mentioned, not called."""
    return isinstance(node, type) and issubclass(node, Call)


class _Broken:
    """Turns what a malformed file trips over into BadFile."""

    def __init__(self, file: TorchFile) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            self._file.refuse(error.strerror or str(error))
        if isinstance(error, _BROKEN):
            self._file.refuse(f"its description is broken ({type(error).__name__})")


# -- a pandas frame -----------------------------------------------------------------------------
class _Frame:
    """What a noted frame says, block by block."""

    def __init__(self, file: TorchFile) -> None:
        self._file = file

    def columns(self) -> dict[str, list[Any]]:
        root = self._file.root
        manager = root.state.get("_mgr") if isinstance(root, Call) and isinstance(root.state, dict) else None
        if not isinstance(manager, Call) or manager.name != _MANAGER or len(manager.args) != 2:
            self._file.refuse("it holds no pandas frame, or one of an unknown version")
        blocks, (columns, rows) = manager.args
        names = [str(name) for name in self._index(columns)[1]]
        found: dict[int, list[Any]] = {}
        for block in blocks if isinstance(blocks, (tuple, list)) else (blocks,):
            values, places, _ = block.args
            table = self._values(values)
            for place, row in zip(self._places(places), table, strict=True):
                found[place] = list(row)
        out = {name: found[i] for i, name in enumerate(names)}
        title, labels = self._index(rows)
        return {str(title): list(labels), **out} if title is not None else out

    def _index(self, node: Any) -> tuple[Any, Sequence[Any]]:
        if not isinstance(node, Call) or node.name != _NEW_INDEX:
            self._file.refuse("an index of the frame is of an unknown kind")
        kind, parts = node.args
        if kind.name.endswith("RangeIndex"):
            return parts["name"], range(parts["start"], parts["stop"], parts["step"])
        return parts["name"], list(self._values(parts["data"]))

    def _places(self, node: Any) -> Iterator[int]:
        if isinstance(node, Call) and node.name in _SLICES:
            yield from range(*node.args)
        else:
            yield from (int(n) for n in self._values(node))

    def _values(self, node: Any) -> list[Any]:
        """A noted numpy array as nested lists."""
        if not isinstance(node, Call) or node.name not in _NDARRAYS or not isinstance(node.state, tuple):
            self._file.refuse("a column of the frame is of an unknown kind")
        _, shape, dtype, fortran, data = node.state
        sizes = self._file.sizes(shape)
        if isinstance(data, list):
            flat = np.empty(len(data), object)
            flat[:] = [self._plain(value) for value in data]
        else:
            flat = np.frombuffer(self._bytes(data), self._dtype(dtype))
        listed: list[Any] = flat.reshape(sizes, order="F" if fortran else "C").tolist()
        return listed

    def _dtype(self, node: Any) -> np.dtype[Any]:
        """A noted dtype of plain numbers."""
        kind = str(node.args[0]) if isinstance(node, Call) and node.name == _DTYPE else ""
        if kind[:1] not in ("i", "u", "f", "b") or not kind[1:].isdigit():
            self._file.refuse(f"a column of the frame has the dtype {kind}")
        order = node.state[1] if isinstance(node.state, tuple) else "|"
        return np.dtype(kind if order == "|" else order + kind)

    def _plain(self, value: Any) -> Any:
        """One value of an object column."""
        if isinstance(value, Call) and value.name in _SCALARS:
            dtype, data = value.args
            return np.frombuffer(self._bytes(data), self._dtype(dtype))[0].item()
        if value is None or isinstance(value, (str, int, float)):
            return value
        self._file.refuse("a column of the frame holds things of an unknown kind")

    def _bytes(self, node: Any) -> bytes:
        if isinstance(node, Call) and node.name == _ENCODE and node.args[1:] == ("latin1",):
            return bytes(node.args[0].encode("latin1"))
        return bytes(node) if isinstance(node, (bytes, bytearray)) else b""
