"""The kinds of index there are, one module each: what a new kind is entered in.

A kind is a class of segments that ``store`` keeps in a folder, or, where it lives elsewhere, an engine of its own.
Modules load when an index of their kind is opened.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # they need numpy, which those who ask for the kinds' names do not
    from w2w_registry.index.protocol import PlacedEngine
    from w2w_registry.index.segments import SegmentedIndex

FOLDER_KINDS = {"exact": "exact:ExactIndex", "faiss": "faiss_index:FaissIndex"}
PLACED_KINDS = {"milvus": "milvus:MilvusEngine"}
KINDS = ("auto", *FOLDER_KINDS, *PLACED_KINDS)


def segments_of(kind: str) -> type[SegmentedIndex]:
    """The class of a kind that is kept in a folder. Raises KeyError for any other."""
    return cast("type[SegmentedIndex]", _loaded(FOLDER_KINDS[kind]))


def placed_engine(kind: str) -> type[PlacedEngine]:
    """The engine of a kind that is kept elsewhere. Raises KeyError for any other."""
    return cast("type[PlacedEngine]", _loaded(PLACED_KINDS[kind]))


def _loaded(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), name)
