"""Electricity that the machine used meanwhile, where it has a meter that can be read; else nothing is said of it.

The meters are those codecarbon reads: the processor's packages (RAPL, Linux's powercap) and NVIDIA cards (NVML, with
the package nvidia-ml-py). They count for the whole machine, whatever else runs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any, Final

POWERCAP: Final = Path("/sys/class/powercap")
Reading = Mapping[str, tuple[float, float]]
"""Meter -> joules so far, and the joules at which it starts again from nothing (infinity: never)."""


@dataclass
class Meter:
    """``lap`` gives what was used since the last lap, or since the meter was made."""

    read: Callable[[], Reading]
    _last: Reading = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.read()

    def lap(self, share: int = 1) -> dict[str, Any] | None:
        """``joules`` (divided by ``share``) and ``by`` which meters; None where there is none.

        A meter that began anew meanwhile (a driver that was loaded again) cannot say what was used, and is left out.
        """
        now, before = self.read(), self._last
        self._last = now
        used = {}
        for name in sorted(set(now) & set(before)):
            difference = now[name][0] - before[name][0]
            if difference < 0:
                difference += now[name][1]
            if isfinite(difference):
                used[name] = difference
        return {"joules": round(sum(used.values()) / share, 3), "by": list(used)} if used else None


def meter() -> Meter:
    """All meters of this machine that can be read."""
    return Meter(lambda: {**processors(POWERCAP), **cards()})


def processors(folder: Path) -> Reading:
    """The processor packages' counters. Linux lets only root read them unless somebody has changed that."""
    found = {}
    for package in sorted(folder.glob("intel-rapl:*")):
        if package.name.count(":") > 1:  # cores, counted in their package; and memory, which codecarbon leaves out too
            continue
        try:
            name = (package / "name").read_text().strip()
            if name != "psys":  # the whole board, packages included
                joules, most = (
                    int((package / file).read_text()) / 1e6 for file in ("energy_uj", "max_energy_range_uj")
                )
                found[f"rapl {name}"] = joules, most
        except (OSError, ValueError):
            continue
    return found


def cards() -> Reading:
    """NVIDIA cards' counters, since the driver was loaded; nothing of a card that has none."""
    try:
        import pynvml
    except ImportError:
        return {}
    found: dict[str, tuple[float, float]] = {}
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:  # no driver
        return {}
    for i in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(i)
            found[f"nvml {i}"] = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, inf
        except pynvml.NVMLError:
            continue
    return found
