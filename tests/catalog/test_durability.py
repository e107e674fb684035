"""Many writers at once, and writers killed at any instant: no gap, no fork, nothing half, nothing acknowledged lost."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest
from sqlalchemy import func, select

from tests.catalog.build import add_space
from tests.catalog.test_session import problems
from w2w_registry.catalog import events
from w2w_registry.catalog.models import Coordinates, Label, Version
from w2w_registry.catalog.session import Catalog
from w2w_registry.records import VersionState


def writer(url: str, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.catalog.writer", url, name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def write_at_once(catalog: Catalog, url: str, processes: int, count: int) -> None:
    with catalog.write("tester") as uow:
        add_space(uow)
    running = [writer(url, f"w{n}", count) for n in range(processes)]
    outputs = [process.communicate(timeout=1200)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    acknowledged = sorted(int(line.split()[0]) for output in outputs for line in output.splitlines())
    # each write appends two events, and reports the second
    assert acknowledged == [1 + 2 * (i + 1) for i in range(processes * count)]
    assert problems(catalog) == []


def kill_now_and_then(catalog: Catalog, url: str, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    with catalog.write("tester") as uow:
        add_space(uow)
    for n in range(kills):
        process = writer(url, f"k{n}", 10**6)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(rng.randint(1, 3))]  # it has started
        time.sleep(rng.random() * 0.05)  # and is at some point of another write
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait()
        acknowledged = [tuple(map(int, line.split())) for line in lines if line.endswith("\n")]
        assert problems(catalog) == []
        with catalog.read() as session:
            last = events.chain_head(session)
            assert last is not None
            assert last[0] >= acknowledged[-1][0]
            assert last[0] % 2 == 1  # both events of a write or none
            wanted = [version for _, version in acknowledged]
            whole = select(func.count()).select_from(Version).join(Coordinates).join(Label)
            whole = whole.where(Version.id.in_(wanted), Version.state == VersionState.BLOCKED, Label.number == -1)
            assert session.scalar(whole) == len(wanted)


def test_writers_at_once(catalog: Catalog, catalog_url: str) -> None:
    write_at_once(catalog, catalog_url, processes=3, count=4)


def test_killed_writers(catalog: Catalog, catalog_url: str) -> None:
    kill_now_and_then(catalog, catalog_url, kills=2, seed=1)


@pytest.mark.soak
def test_eight_writers_at_once(catalog: Catalog, catalog_url: str) -> None:
    write_at_once(catalog, catalog_url, processes=8, count=200)


@pytest.mark.soak
def test_two_hundred_killed_writers(catalog: Catalog, catalog_url: str) -> None:
    kill_now_and_then(catalog, catalog_url, kills=200, seed=2)
