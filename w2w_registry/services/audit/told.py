"""How far each listener to the log's events has been told: kept in the home folder, so that it outlives the teller."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog.vectors import last_seq
from w2w_registry.services.registry import Registry

FILE: Final = "webhooks.json"


def read(registry: Registry, listeners: Iterable[str]) -> dict[str, int]:
    """The number of the last event each was told; a new one begins with what happens from now on."""
    try:
        found: dict[str, Any] = json.loads((registry.settings.home / FILE).read_bytes())
    except (OSError, ValueError):
        found = {}
    with registry.catalog.read() as session:
        newest = last_seq(session)
    known = {name: seq for name, seq in found.items() if isinstance(seq, int) and 0 <= seq <= newest}
    return {name: known.get(name, newest) for name in listeners}


def keep(registry: Registry, told: Mapping[str, int]) -> None:
    """Remember it.

    Raises:
        StorageError.
    """
    write_atomic(registry.settings.home / FILE, json.dumps(dict(told), sort_keys=True).encode())
