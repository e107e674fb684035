"""Which kind of index to use, and an empty one of it.

``auto`` is exact below ``FAISS_ROWS`` and faiss from there on. Measured with ``benchmarks.bench_index`` at 1,000
components (component i with standard deviation i^-½; two cores), CPU seconds of a whole process that opens its index
and answers one query, python and numpy included:

    | rows | exact | faiss |
    | --- | --- | --- |
    | 1,000 | 0.12 | 0.15 |
    | 10,000 | 0.17 | 0.22 |
    | 100,000 | 0.20 | 0.25 |
    | 300,000 (i^-1) | 0.19 | 0.25 |

Importing faiss costs more than the exact kind's whole search, so a command-line search never gains from it at these
sizes. A process that goes on asking does: at 100,000 rows a warm query takes faiss 0.2 to 0.4 of the exact kind's time.
From ``FAISS_ROWS`` on the cold loss is some hundredths of a second and the exact kind's reading grows with the rows.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from w2w_registry.errors import SettingError
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.milvus import MilvusIndex, MilvusTarget, collection_name
from w2w_registry.index.protocol import VectorIndex

KINDS = ("auto", "exact", "faiss", "milvus")
FAISS_ROWS = 300_000


def choose_kind(kind: str, size: int) -> str:
    """The kind ``auto`` stands for at that many rows, given what is installed; any other kind is itself.

    Raises:
        SettingError: no such kind.
    """
    if kind not in KINDS:
        raise SettingError(setting="index.kind", value=kind, reason=f"one of {', '.join(KINDS)}")
    if kind != "auto":
        return kind
    return "faiss" if size >= FAISS_ROWS and find_spec("faiss") is not None else "exact"


def open_index(
    kind: str = "auto",
    *,
    dim: int,
    size: int = 0,
    folder: Path | None = None,
    milvus: MilvusTarget | None = None,
) -> VectorIndex:
    """A new, empty index for vectors of ``dim`` components, of which about ``size`` are expected.

    Args:
        folder: the cache folder it will be saved in (``store.folder_for``); names the collection of the milvus kind,
            whose former rows and stamp are dropped.
        milvus: where Milvus is; needed by that kind only.

    Raises:
        SettingError: no such kind, or milvus without a folder and a target.
        MissingExtra: the kind needs a package that is not installed.
        Busy, StorageError: Milvus is locked by another process, or cannot be used.
    """
    chosen = choose_kind(kind, size)
    if chosen == "faiss":
        from w2w_registry.index.faiss_index import FaissIndex

        return FaissIndex(dim)
    if chosen == "milvus":
        if folder is None or milvus is None:
            raise SettingError(setting="index.uri", value=None, reason="the milvus kind needs to know where Milvus is")
        return MilvusIndex.create(milvus, collection_name(folder), dim)
    return ExactIndex(dim)
