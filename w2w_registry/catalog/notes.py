"""What is to become an event when the transaction under way ends, whatever comes of that."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple


class Note(NamedTuple):
    """An event to be."""

    actor: str
    action: str
    objects: Mapping[str, Any]
    payload: Mapping[str, Any]


class Notes(threading.local):
    """The notes of one thread, and how many reads and writes deep it is."""

    def __init__(self) -> None:
        self.reading = self.writing = 0
        self.waiting: list[Note] = []

    def take(self) -> list[Note]:
        """The notes, which are then no longer waiting."""
        taken, self.waiting = self.waiting, []
        return taken
