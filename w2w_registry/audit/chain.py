"""The hash chain: each event's hash covers its body and the hash before it.

Change, drop, insert or swap an event and every hash after it stops fitting. Cutting the tail off leaves a
chain that fits; that is what signed checkpoints (``audit.checkpoint``) are for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from w2w_registry.records import canonical_json

GENESIS = "0" * 64
"""What the first event names as the hash before it."""


def event_hash(prev_hash: str, body: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of ``{"body": body, "prev": prev_hash}``.

    Args:
        prev_hash: hash of the event before, or ``GENESIS``.
        body: everything an event says: its sequence number, time, actor, action, object ids and data.
    """
    return hashlib.sha256(canonical_json({"body": body, "prev": prev_hash}).encode()).hexdigest()
