"""What a request may cost, and how many of them a caller may make."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Limits:
    """What a request may cost. ``form_bytes`` for JSON and plain forms, ``upload_bytes`` for files; a body that comes
    slower than ``slowest`` bytes a second after ``patience`` seconds is given up. ``rate`` requests a second go on for
    ever, ``burst`` at once; ``together`` of one caller are answered side by side, streams included."""

    form_bytes: int = 1 << 20
    upload_bytes: int = 512 << 20
    patience: float = 20.0
    slowest: float = 64 * 1024
    rate: float = 100.0
    burst: int = 400
    together: int = 64


class Buckets(Protocol):
    """How many requests each caller may make yet."""

    def take(self, caller: str) -> int:
        """0, or how many seconds to wait."""


class OwnBuckets:
    """Token buckets by caller, for one process; the least recently seen forgotten first."""

    def __init__(self, limits: Limits, most: int = 4096) -> None:
        self._limits, self._most = limits, most
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> int:
        """0, or how many seconds to wait."""
        at = time.monotonic()
        level, before = self._levels.pop(caller, (float(self._limits.burst), at))
        level = min(float(self._limits.burst), level + (at - before) * self._limits.rate)
        enough = level >= 1.0
        self._levels[caller] = (level - 1.0 if enough else level, at)
        while len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0 if enough else 1 + int((1.0 - level) / self._limits.rate)
