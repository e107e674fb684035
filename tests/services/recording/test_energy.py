"""Electricity is what the meters say, and nothing where there is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from w2w_registry.services.recording import energy


def package(folder: Path, number: str, name: str, micro: int, most: int = 10_000_000) -> None:
    one = folder / f"intel-rapl:{number}"
    one.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", name), ("energy_uj", micro), ("max_energy_range_uj", most)):
        (one / file).write_text(f"{text}\n")


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    for number, name in (("0", "package-0"), ("1", "package-1"), ("0:0", "core"), ("2", "psys")):
        package(tmp_path, number, name, 9_000_000)
    meter = energy.Meter(lambda: energy.processors(tmp_path))
    package(tmp_path, "0", "package-0", 9_500_000)
    package(tmp_path, "1", "package-1", 1_000_000)  # it went round
    assert meter.lap() == {"joules": 2.5, "by": ["rapl package-0", "rapl package-1"]}
    assert meter.lap() == {"joules": 0.0, "by": ["rapl package-0", "rapl package-1"]}
    package(tmp_path, "0", "package-0", 9_900_000)
    told = meter.lap(4)
    assert told is not None
    assert told["joules"] == pytest.approx(0.1)


def test_without_a_meter_nothing_is_said(tmp_path: Path) -> None:
    assert energy.Meter(lambda: energy.processors(tmp_path / "none")).lap() is None
    package(tmp_path, "0", "package-0", 5)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert energy.processors(tmp_path) == {}


class NVMLError(Exception):
    """As pynvml has it."""


def fake_cards(millijoules: Sequence[int | None]) -> SimpleNamespace:
    """pynvml on a machine with these cards; None: one without a counter."""

    def counter(handle: int) -> int:
        value = millijoules[handle]
        if value is None:
            raise NVMLError
        return value

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(millijoules),
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetTotalEnergyConsumption=counter,
    )


def test_cards_are_added_to_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    package(tmp_path, "0", "package-0", 1_000_000)
    counters: list[int | None] = [5_000, None, 70_000]
    monkeypatch.setitem(sys.modules, "pynvml", fake_cards(counters))
    meter = energy.meter()
    package(tmp_path, "0", "package-0", 3_000_000)
    counters[0], counters[2] = 6_000, 70_500
    assert meter.lap() == {"joules": 3.5, "by": ["nvml 0", "nvml 2", "rapl package-0"]}


def test_a_counter_that_began_anew_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    counters: list[int | None] = [9_000, 1_000]
    monkeypatch.setitem(sys.modules, "pynvml", fake_cards(counters))
    meter = energy.meter()
    counters[:] = [10, 2_000]
    assert meter.lap() == {"joules": 1.0, "by": ["nvml 1"]}
    counters[:] = [5, 5]
    assert meter.lap() is None


def test_cards_without_a_driver_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, nvmlInit=no_driver))
    assert energy.cards() == {}
