"""Which kind of index to use."""

from __future__ import annotations

from w2w_registry.errors import SettingError
from w2w_registry.index.exact import ExactIndex
from w2w_registry.index.protocol import VectorIndex

KINDS = ("auto", "exact", "faiss", "milvus")


def choose_kind(kind: str, size: int) -> str:
    """The kind ``auto`` stands for at that many rows; any other kind is itself.

    Raises:
        SettingError: no such kind.
    """
    if kind not in KINDS:
        raise SettingError(setting="index.kind", value=kind, reason=f"one of {', '.join(KINDS)}")
    return "exact" if kind == "auto" else kind


def open_index(kind: str = "auto", *, dim: int, size: int = 0) -> VectorIndex:
    """A new, empty index for vectors of ``dim`` components, of which about ``size`` are expected.

    Raises:
        SettingError: no such kind. MissingExtra: the kind needs a package that is not installed.
    """
    choose_kind(kind, size)
    return ExactIndex(dim)
