"""Which kind of index to use, and the engine that keeps it.

``auto`` is exact below ``FAISS_ROWS`` and faiss from there on, where faiss is installed. Importing faiss takes 0.1 to
0.15 s of a process that asks once, and reading every row takes that long at some tens of thousands of rows of 1,000
components (measured: docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2w_registry.errors import SettingError
from w2w_registry.index.kinds import KINDS, PLACED_KINDS, placed_engine
from w2w_registry.index.milvus_server import LOCAL_FILE, MilvusTarget

if TYPE_CHECKING:  # the engines need numpy, which most of those who ask for settings do not
    from w2w_registry.index.protocol import Engine
    from w2w_registry.index.rows import Source

FAISS_ROWS = 50_000


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


def asked_kind(options: Mapping[str, Any]) -> str:
    """The kind that the ``[index]`` table asks for: a ``url`` is Milvus's.

    Raises:
        SettingError: a url beside another kind.
    """
    kind = str(options.get("kind", "auto"))
    if not options.get("url"):
        return kind
    if kind not in ("auto", "milvus"):
        raise SettingError(setting="index.url", value=options["url"], reason=f"index.kind is {kind}, which has no URL")
    return "milvus"


def check_options(options: Mapping[str, Any]) -> None:
    """Raises SettingError when the ``[index]`` table cannot mean anything; nothing is opened."""
    if choose_kind(asked_kind(options), 0) == "milvus":
        MilvusTarget.from_options(options, Path(LOCAL_FILE), {})


def engine_for(
    options: Mapping[str, Any],
    root: Path,
    space_digest: str,
    metric_digest: str,
    *,
    size: int,
    source: Source | None = None,
) -> Engine:
    """The engine that keeps the index of one space under one metric.

    Args:
        options: the ``[index]`` table of registry.toml.
        root: the cache folder of the registry.
        size: how many rows are expected, for ``auto``.
        source: where the exact rows are, for kinds that then need not store them.

    Raises:
        SettingError: no such kind, or a setting that is not text.
    """
    kind = choose_kind(asked_kind(options), size)
    folder = root / f"{space_digest[:16]}-{metric_digest[:16]}-{kind}"
    if kind in PLACED_KINDS:
        return placed_engine(kind).of(options, root, folder)
    from w2w_registry.index.store import FolderEngine

    return FolderEngine(folder, kind, source)


def kept_engines(options: Mapping[str, Any], root: Path) -> Iterator[Engine]:
    """An engine for everything that may be kept, whatever space, metric or kind: what erasure has to drop.

    Raises:
        MissingExtra, Busy, StorageError: an index is kept somewhere that cannot be asked.
    """
    for folder in sorted(root.glob("*-*-*")):
        from w2w_registry.index.store import FolderEngine

        yield FolderEngine(folder, folder.name.rpartition("-")[2])
    for kind in PLACED_KINDS:
        yield from placed_engine(kind).kept(options, root)
