"""Trouble on demand: which request fails, how, and whether its effect happens first."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["cut", "truncate", "status", "slow", "kill", "answer", "trickle", "trickle-head"]
When = Literal["before", "after"]


@dataclass(frozen=True)
class Seen:
    """One request as it reached the server. ``number`` counts from 1 since the plan was last reset."""

    number: int
    method: str
    path: str
    user: str | None

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Fault:
    """One kind of trouble.

    ``at`` picks the nth request, ``match`` those whose "METHOD /path" the pattern finds; ``times`` bounds how
    often it strikes (None: for ever). ``when="after"`` lets the request take effect and spoils only the answer.

    - cut: the connection closes without an answer.
    - truncate: the answer's headers and half of its body are sent, then the connection closes.
    - status: the answer is ``status`` with ``headers``.
    - slow: the answer waits for ``seconds``.
    - answer: the answer is ``body``, as JSON.
    - trickle: the answer comes a byte every ``seconds``; trickle-head: already its headers do.
    - kill: ``pid`` gets SIGKILL, then the connection closes.
    """

    action: Action
    at: int | None = None
    match: str | None = None
    when: When = "before"
    times: int | None = 1
    onward: bool = False
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    body: bytes = b""
    pid: int | None = None
    struck: int = 0

    def strikes(self, seen: Seen) -> bool:
        if self.times is not None and self.struck >= self.times:
            return False
        if self.at is not None and not (seen.number == self.at or (self.onward and seen.number > self.at)):
            return False
        return self.match is None or re.search(self.match, seen.line) is not None


class FaultPlan:
    """The faults in force and the log of every request seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: list[Seen] = []

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def reset(self) -> None:
        """Forget all faults and start counting requests from 1 again."""
        with self._lock:
            self._faults.clear()
            self._seen.clear()

    @property
    def seen(self) -> tuple[Seen, ...]:
        with self._lock:
            return tuple(self._seen)

    def arrive(self, method: str, path: str, user: str | None) -> Fault | None:
        """Log a request; the fault that strikes it, if any."""
        with self._lock:
            seen = Seen(len(self._seen) + 1, method, path, user)
            self._seen.append(seen)
            for fault in self._faults:
                if fault.strikes(seen):
                    fault.struck += 1
                    return fault
        return None
