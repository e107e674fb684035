"""The export: the whole log as JSON lines, enough for ``examples/verify_audit.py`` to check it without us.

Line 1 says what it is and by which key checkpoints are signed; then one line per event (body and both hashes);
then one line per checkpoint (the signed note). Event bodies hold ids and digests only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from w2w_registry.audit.checks import LoggedEvent
from w2w_registry.audit.merkle import consistency_proof, inclusion_proof, root
from w2w_registry.records import canonical_json

FORMAT = "w2w-registry audit log"
VERSION = 1


def lines(origin: str, public: bytes | None, events: Iterable[LoggedEvent], notes: Iterable[str]) -> Iterator[str]:
    """The export, line by line, without line ends."""
    key = None if public is None else public.hex()
    yield canonical_json({"format": FORMAT, "version": VERSION, "origin": origin, "public_key": key})
    for event in events:
        yield canonical_json({"body": event.body, "prev": event.prev_hash, "hash": event.hash})
    for note in notes:
        yield canonical_json({"checkpoint": note})


def proof(hashes: Sequence[bytes], event: LoggedEvent, note: str | None) -> dict[str, Any]:
    """Proof that one event is in the log: ``hashes`` are all event hashes up to the tree size.

    ``note``: the signed checkpoint of exactly that size, or None when the tree is not signed.
    """
    return {
        "format": FORMAT + " inclusion proof",
        "version": VERSION,
        "event": {"body": json.loads(canonical_json(event.body)), "prev": event.prev_hash, "hash": event.hash},
        "index": event.seq - 1,
        "size": len(hashes),
        "root": root(hashes).hex(),
        "path": [node.hex() for node in inclusion_proof(hashes, event.seq - 1)],
        "checkpoint": note,
    }


def extension(hashes: Sequence[bytes], old_size: int, old: str, new: str) -> dict[str, Any]:
    """Proof that one signed checkpoint extends another: ``hashes`` are all event hashes up to the newer one."""
    return {
        "format": FORMAT + " consistency proof",
        "version": VERSION,
        "old": old,
        "new": new,
        "path": [node.hex() for node in consistency_proof(hashes, old_size)],
    }
