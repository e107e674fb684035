"""Whole commands at a thousand identities and at many: list, show, audit query, and a cold search, CPU and memory."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cases.recording import PEOPLE, opened, rate
from benchmarks.frame import Row
from w2w_registry.services.registry import Registry

FEW = 1_000
AT_ONCE = 10_000
COMMANDS: dict[str, Sequence[str]] = {
    "list --limit 20": ["list", "--limit", "20"],
    "show NAME": ["show", "p0005"],
    "audit query actions --limit 20": ["audit", "query", "actions", "--limit", "20"],
    "audit query versions --where": ["audit", "query", "versions", "--where", "kind = 'person'", "--limit", "20"],
    "search NAME, cold": ["search", "p0005"],
}


def rows(small: bool) -> Iterator[Row]:
    many = 5_000 if small else int(os.environ.get("BENCH_IDENTITIES", "1000000"))
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        url, home = f"sqlite:///{folder}/catalog.db", Path(folder) / "home"
        registry = opened(url, home)
        few = after(registry, url, home, PEOPLE, FEW)
        rates = []
        before = FEW
        while before < many:
            more = min(AT_ONCE, many - before)
            rates.append(rate(registry, more, f"s{before}-"))
            before += more
        size = {"unit": "versions a CPU second", "database": "SQLite", "identities": many}
        if len(rates) > 1:
            told = f"the first {AT_ONCE:,} of them"
            yield Row("recording the last of many", rates[-1], rates[0], told, {}, size, more_is_better=True)
        lots = commands(registry, url, home)
        for name, (seconds, memory) in lots.items():
            quality = {"CPU, times itself": f"{seconds / few[name][0]:.3g}", "peak MB": memory}
            size = {"identities": many, "peer's": FEW, "database": "SQLite"}
            yield Row(name, seconds, few[name][0], f"itself at {FEW:,}", quality, size)


def after(registry: Registry, url: str, home: Path, have: int, wanted: int) -> dict[str, tuple[float, float]]:
    rate(registry, wanted - have, "first-")
    return commands(registry, url, home)


def commands(registry: Registry, url: str, home: Path) -> dict[str, tuple[float, float]]:
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
