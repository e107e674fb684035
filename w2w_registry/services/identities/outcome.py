"""What became of files, as data: who was added, who was there, what failed or was passed over, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from w2w_registry.errors import spelt
from w2w_registry.lora import Skipped
from w2w_registry.messages import message
from w2w_registry.services.identities.about import beside_told
from w2w_registry.services.identities.items import Item


def lists(items: Sequence[Item], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """Every file in one of four lists, each naming its file, and how many each has."""
    found: dict[str, list[dict[str, Any]]] = {
        "added": [_named(item) for item in items if item.status == "added"],
        "existing": [_there(item) for item in items if item.status == "existing"],
        "failed": [failure(item) for item in items if item.error is not None],
        "skipped": [
            {"file": str(one.path), "path": str(one.path), "reason": one.reason, "cure": _spelt(one.cure)}
            for one in skipped
        ],
    }
    return {**found, "counts": {name: len(rows) for name, rows in found.items()}}


def _named(item: Item) -> dict[str, Any]:
    told = {"residual": item.residual, "held": item.held, "warnings": list(item.warnings)}
    return {"file": item.path, "path": item.path, "identity": item.identity, "version": item.version, **told}


def _there(item: Item) -> dict[str, Any]:
    named = {"file": item.path, "path": item.path, "identity": item.identity, "version": item.version}
    reason = item.same_model or "already there"
    return {**named, "reason": reason, "updated": list(item.updated), "warnings": list(item.warnings)}


def failure(item: Item) -> dict[str, Any]:
    """A failed item as data: its file, the reason, what to do about it where that is known, and the error's code."""
    assert item.error is not None
    fields = item.error.fields
    return {
        "file": item.path,
        "path": item.path,
        "identity": item.identity,
        "reason": spelt(str(fields.get("reason") or message(item.error)), "--{}".format),
        "cure": _spelt(fields.get("hint")),
        "code": item.error.code,
    }


def _spelt(cure: str | None) -> str | None:
    return None if cure is None else spelt(cure, "--{}".format)


def cause(reason: str) -> str:
    """A reason without what is of one file alone (names of layers, numbers, examples), to group failures by."""
    text = re.sub(r"\s*\([^()]*\)", "", reason)
    return re.sub(r"\S*[\d_./]\S*\w", "…", text)


def with_beside(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items with what is to be said of the files beside those that are added."""
    told = [(item, beside_told(Path(item.path)) if item.status == "added" else ()) for item in items]
    return tuple(replace(item, warnings=(*item.warnings, *words)) if words else item for item, words in told)
