"""Whole commands at a thousand identities and at many: list, show, audit query and a cold search; the gallery's first
page; recording on the way.

    BENCH_IDENTITIES=1000000 BENCH_HOME=FOLDER python -m benchmarks --only catalog

With ``BENCH_HOME`` the registry is kept there and a run that was broken off goes on from it, one ``sample`` of ten
thousand at a time; what each took stands in ``FOLDER/rates.json``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.cases.gallery import anew, client_of, taken
from benchmarks.cases.recording import PEOPLE, opened, peak, rate, registry_at
from benchmarks.frame import Row
from w2w_registry.catalog.models import Version
from w2w_registry.services.registry import Registry

FEW = 1_000
AT_ONCE = 10_000
PAGES = 15  # of each registry, turn by turn
COMMANDS: dict[str, Sequence[str]] = {
    "list --limit 20": ["list", "--limit", "20"],
    "show NAME": ["show", "p0005"],
    "audit query actions --limit 20": ["audit", "query", "actions", "--limit", "20"],
    "audit query versions --where": ["audit", "query", "versions", "--where", "kind = 'person'", "--limit", "20"],
    "search NAME, cold": ["search", "p0005"],
}
Taken = dict[str, tuple[float, float]]


def rows(small: bool) -> Iterator[Row]:
    many = 5_000 if small else int(os.environ.get("BENCH_IDENTITIES", "1000000"))
    kept = None if small else os.environ.get("BENCH_HOME")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield from measured(Path(kept), many)
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        yield from measured(Path(folder), many)


def measured(folder: Path, many: int) -> Iterator[Row]:
    url, home = f"sqlite:///{folder}/catalog.db", folder / "home"
    few, grown = grow(folder, url, home, many)
    size = {"unit": "versions a CPU second", "database": "SQLite"}
    for before, step in pairwise(grown):
        if step["total"] // 100_000 > before["total"] // 100_000 or step is grown[-1]:
            quality = {"a second by the clock": step.get("clock", 0.0), "peak MB": step["peak"]}
            said = {**size, "identities": step["total"]}
            told = f"after {grown[0]['total']:,}"
            yield Row("recording", step["rate"], grown[0]["rate"], told, quality, said, more_is_better=True)
    for name, (seconds, memory) in commands(registry_at(url, home), url, home).items():
        quality = {"CPU, times itself": f"{seconds / few[name][0]:.3g}", "peak MB": memory}
        yield Row(
            name, seconds, few[name][0], f"itself at {FEW:,}", quality, {"identities": many, "database": "SQLite"}
        )
    yield first_page(registry_at(url, home), many)


def first_page(registry: Registry, many: int) -> Row:
    """The first page, made anew each time, turn by turn with that of a registry of a thousand: this process's CPU, the
    least of several."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        small = opened(f"sqlite:///{folder}/catalog.db", Path(folder) / "home")
        rate(small, FEW - PEOPLE, "first-")
        clients = client_of(small), client_of(registry)
        cold = [taken(client, "/").cpu for client in clients]
        spent = [[taken(client, anew("/", turn)).cpu for client in clients] for turn in range(PAGES)]
        for one in (small, registry):
            one.catalog.close()
    few, ours = (min(times) for times in zip(*spent, strict=True))
    quality = {"CPU, times itself": f"{ours / few:.3g}", "first after the start": cold[1], "of a thousand": cold[0]}
    return Row("first page", ours, few, f"itself at {FEW:,}", quality, {"identities": many, "database": "SQLite"})


def grow(folder: Path, url: str, home: Path, many: int) -> tuple[Taken, list[dict[str, float]]]:
    """Record up to ``many`` identities; what the commands took of the first thousand, and each step on the way."""
    noted, first = folder / "rates.json", folder / "few.json"
    if not first.exists():
        registry = opened(url, home)
        rate(registry, FEW - PEOPLE, "first-")
        first.write_text(json.dumps(commands(registry, url, home)))
        noted.write_text("[]")
    steps: list[dict[str, float]] = json.loads(noted.read_text())
    registry = registry_at(url, home)
    with registry.catalog.read() as session:
        before = session.scalar(select(func.count()).select_from(Version)) or 0
    while before < many:
        more = min(AT_ONCE, many - before)
        per_second, by_the_clock = rate(registry, more, f"s{before}-")
        before += more
        steps.append({"total": before, "rate": per_second, "clock": by_the_clock, "peak": peak()})
        noted.write_text(json.dumps(steps))
        told = f"{per_second:,.0f} a second of CPU, {by_the_clock:,.0f} by the clock, {peak():,.0f} MB"
        print(f"{before:,}: {told}", file=sys.stderr, flush=True)
    registry.catalog.close()
    return {name: (seconds, memory) for name, (seconds, memory) in json.loads(first.read_text()).items()}, steps


def commands(registry: Registry, url: str, home: Path) -> Taken:
    """CPU seconds and peak memory in MB of each command as a process of its own, the less of two."""
    registry.catalog.close()
    found = {}
    for name, arguments in COMMANDS.items():
        ask(url, home, arguments)  # what is topped up once is topped up
        runs = [ask(url, home, arguments) for _ in range(2)]
        found[name] = min(seconds for seconds, _ in runs), min(memory for _, memory in runs)
    return found


SCRIPT = """
import atexit, sys
from pathlib import Path
peak = lambda: next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
atexit.register(lambda: Path(sys.argv[1]).write_text(peak()))
from w2w_registry.cli.app import main
main(sys.argv[2:])
"""


def ask(url: str, home: Path, arguments: Sequence[str]) -> tuple[float, float]:
    noted = home / "peak.txt"  # what wait4 tells counts this process's own memory, before the new one begins
    command = [sys.executable, "-c", SCRIPT, str(noted), "--home", str(home), "--database", url, *arguments]
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
    _, status, used = os.wait4(pid, 0)
    assert status == 0, arguments
    return used.ru_utime + used.ru_stime, int(noted.read_text()) / 1e3
