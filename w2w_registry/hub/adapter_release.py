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
from w2w_registry.hub.bundle import Document, checked_hex, checked_text, optional_text
from w2w_registry.hub.safety import shorten
from w2w_registry.records import canonical_json, digest_of

VERSION = 2
"""What ``version`` says where ``bundle.VERSION`` has coordinates: a registry that cannot read it says to upgrade."""
PUBLISHED = ("trigger", "strength", "base_hint", "title", "license", "tags")
"""Labels that go with the file: what it takes to use it. What a team notes for itself stays where it is."""
_MOST = 64


@dataclass(frozen=True)
class AdapterDocument:
    """``model_digest``: of the adapter's numbers, whatever file they are in. ``files``: path → SHA-256 of the release's
    other files, the card aside."""

    name: str
    number: int
    kind: str
    adapter: str
    base_model: str | None
    base_revision: str | None
    labels: Mapping[str, float | str]
    model_digest: str
    manifest: Mapping[str, Any]
    files: Mapping[str, str]


def encode(document: AdapterDocument) -> bytes:
    """``w2w.json``: canonical JSON with a digest over all of it."""
    body: dict[str, Any] = {
        "format": bundle.FORMAT,
        "version": VERSION,
        "identity": {"name": document.name, "number": document.number, "kind": document.kind},
        "adapter": document.adapter,
        "base_model": {"id": document.base_model, "revision": document.base_revision},
        "labels": dict(document.labels),
        "model_digest": document.model_digest,
        "manifest": document.manifest,
        "files": dict(document.files),
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
        base, labels = body["base_model"], dict(body["labels"])
        if len(labels) > _MOST:
            raise ValueError("more labels than any file needs")
        return None, AdapterDocument(
            name=checked_text(body["identity"]["name"]),
            number=int(body["identity"]["number"]),
            kind=checked_text(body["identity"]["kind"]),
            adapter=checked_text(body["adapter"]),
            base_model=optional_text(base["id"]),
            base_revision=optional_text(base["revision"]),
            labels={name: _label(labels[name]) for name in PUBLISHED if name in labels},
            model_digest=checked_hex(body["model_digest"]),
            manifest=dict(body["manifest"]),
            files={checked_text(path): checked_hex(digest) for path, digest in dict(body["files"]).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BadFile(path=where, reason=f"not a release document ({shorten(missing, 60)})") from None


def _label(value: Any) -> float | str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return checked_text(value)
