"""``w2w.json`` of a release that has no point in a weight space: an adapter published as the file it is.

The second form of ``bundle.Document``: no coordinates and no layout, but the labels people need to use the file, and
the kind of adapter. Pure: bytes in, values out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from w2w_registry.errors import BadFile
from w2w_registry.hub import bundle
from w2w_registry.hub.bundle import Document, Released, checked_text
from w2w_registry.hub.safety import shorten
from w2w_registry.records import canonical_json, digest_of

VERSION = 2
"""What ``version`` says where ``bundle.VERSION`` has coordinates: a registry that cannot read it says to upgrade."""
PUBLISHED = ("trigger", "strength", "base_hint", "title", "license", "tags")
"""Labels that go with the file: what it takes to use it. What a team notes for itself stays where it is."""
_MOST = 64


@dataclass(frozen=True)
class AdapterDocument(Released):
    """``model_digest``: of the adapter's numbers, whatever file they are in."""

    adapter: str
    labels: Mapping[str, float | str]


def encode(document: AdapterDocument) -> bytes:
    """``w2w.json``: canonical JSON with a digest over all of it."""
    body: dict[str, Any] = {
        "format": bundle.FORMAT,
        "version": VERSION,
        **bundle.told(document),
        "adapter": document.adapter,
        "labels": dict(document.labels),
    }
    return (canonical_json({**body, "digest": digest_of(body)}) + "\n").encode()


def decode(
    data: bytes, where: str, read: Callable[[str], bytes] | None = None
) -> tuple[Document | None, AdapterDocument | None]:
    """The document in ``data``, as the one of the two that it is, every digest inside it checked.

    Raises:
        As ``bundle.decode``.
    """
    body = bundle.read_table(data, where)
    if body.get("format") != bundle.FORMAT or body.get("version") != VERSION:
        return bundle.decode(data, where, read), None
    expected = str(body.get("digest"))
    bundle.check_same("release", where, expected, digest_of({k: v for k, v in body.items() if k != "digest"}))
    try:
        labels = dict(body["labels"])
        if len(labels) > _MOST:
            raise ValueError("more labels than any file needs")
        return None, AdapterDocument(
            **bundle.read_told(body),
            adapter=checked_text(body["adapter"]),
            labels={name: _label(labels[name]) for name in PUBLISHED if name in labels},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BadFile(path=where, reason=f"not a release document ({shorten(missing, 60)})") from None


def _label(value: Any) -> float | str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return checked_text(value)
