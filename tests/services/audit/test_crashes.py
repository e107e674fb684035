"""kill -9 at random instants, and many writers at once: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.services.crash_worker import attach
from tests.services.small import Small
from w2w_registry.catalog.depictions import depictions
from w2w_registry.catalog.events import chain_head, events
from w2w_registry.catalog.models import Coordinates, Subject, Version, Withdrawal
from w2w_registry.catalog.session import Catalog
from w2w_registry.records import VersionState
from w2w_registry.services.audit import log
from w2w_registry.services.consent import withdraw

ROOT = Path(__file__).parents[3]


def start(url: str, folder: Path, seed: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.services.crash_worker", url, str(folder), str(seed), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def check_after(url: str, folder: Path, acknowledged: list[str]) -> None:
    """The catalog opens and verifies; what was acknowledged is there; withdrawals finish; nothing is half done."""
    small = attach(url, folder)
    for withdrawal_id in withdraw.unfinished(small.registry):
        withdraw.resume(small.registry, withdrawal_id)
    verdict = log.verify(small.registry)
    assert verdict.ok, verdict.findings
    with small.registry.catalog.read() as session:
        versions = set(session.scalars(select(Version.id)))
        withdrawn = {w.subject_id for w in session.scalars(select(Withdrawal))}
        for line in acknowledged:
            what, name = line.split()
            if what in ("add", "edit"):
                assert int(name) in versions, line
            elif what == "withdraw":
                assert name in withdrawn, line
            elif what == "checkpoint":
                assert verdict.events >= int(name)
        # no version without its coordinates, but those that were erased
        bare = session.scalars(
            select(Version.state)
            .outerjoin(Coordinates, Coordinates.version_id == Version.id)
            .where(Coordinates.k.is_(None))
        )
        assert set(bare) <= {VersionState.ERASED}
        for subject in session.scalars(select(Subject).where(Subject.state.in_(["withdrawn", "erased"]))):
            states = {version.state for version in depictions(session, subject.id)}
            assert VersionState.ACTIVE not in states
    small.registry.catalog.close()


def kill_loop(url: str, folder: Path, kills: int, seed: int, longest: float) -> int:
    """Kill a worker ``kills`` times, each at a random instant; returns how many operations were acknowledged."""
    rng, total = random.Random(seed), 0
    acknowledged: list[str] = []
    for number in range(kills):
        process = start(url, folder, seed * 10_000 + number, 100_000)
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(rng.random() * longest)
        assert process.poll() is None, "the worker stopped by itself"
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        # a line cut in the middle was not acknowledged
        acknowledged += [line.strip() for line in lines if line.endswith("\n") and not line.startswith("denied")]
        total = len(acknowledged)
        check_after(url, folder, acknowledged)
    return total


def prepare(catalog: Catalog, folder: Path) -> None:
    Small(catalog, folder)
    catalog.close()


def test_killed_at_random_instants(catalog: Catalog, catalog_url: str, tmp_path: Path) -> None:
    prepare(catalog, tmp_path)
    assert kill_loop(catalog_url, tmp_path, kills=2, seed=1, longest=0.5) > 0


@pytest.mark.soak
def test_killed_at_two_hundred_random_instants(catalog: Catalog, catalog_url: str, tmp_path: Path) -> None:
    """100 on each database."""
    prepare(catalog, tmp_path)
    print(kill_loop(catalog_url, tmp_path, kills=100, seed=2, longest=2.0), "acknowledged operations")


def write_together(url: str, folder: Path, writers: int, count: int) -> None:
    running = [start(url, folder, seed, count) for seed in range(1, writers + 1)]
    acknowledged: list[str] = []
    for process in running:
        out, _ = process.communicate()
        assert process.returncode == 0
        acknowledged += out.splitlines()
    assert len(acknowledged) == writers * count  # each step was done or denied
    done = [line for line in acknowledged if not line.startswith("denied")]
    print(len(done), "of", writers * count, "done")
    assert 2 * len(done) > len(acknowledged)
    check_after(url, folder, done)
    small = attach(url, folder)
    with small.registry.catalog.read() as session:
        sequence = [event.seq for event in events(session)]
        assert sequence == list(range(1, (chain_head(session) or (0, ""))[0] + 1))
        adds = [e.objects["version"] for e in events(session, action="version.add")]
        assert len(adds) == len(set(adds)) == len(list(session.scalars(select(Version.id))))
    small.registry.catalog.close()


def test_writers_take_turns(catalog: Catalog, catalog_url: str, tmp_path: Path) -> None:
    prepare(catalog, tmp_path)
    write_together(catalog_url, tmp_path, writers=3, count=4)


@pytest.mark.soak
def test_eight_writers(catalog: Catalog, catalog_url: str, tmp_path: Path) -> None:
    prepare(catalog, tmp_path)
    write_together(catalog_url, tmp_path, writers=8, count=40)
