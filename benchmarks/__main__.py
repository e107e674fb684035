"""Benchmarks: ours beside a peer, in one run, read as ratios.

    python -m benchmarks [--small] [--only NAME …] [--json FILE] [--list]
                         [--gallery NPZ] [--held NPZ]

Each benchmark is a module of ``benchmarks/cases`` and runs in a process of its own, so that none finds another's
memory. The table goes to standard output, progress to standard error. Exit status: 0 when all ran and met what they
state as targets, 1 when one failed or missed one (the others still run, and all rows are written), 2 for a wrong
option. Rows that miss a target are named at the end; a small run's sizes are not those the targets are for, so there
that is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import frame


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--small", action="store_true", help="small sizes: all benchmarks in ten minutes on two cores")
    options.add_argument("--only", metavar="NAME", action="append", help="run this benchmark; may be repeated")
    options.add_argument("--json", metavar="FILE", type=Path, help="write the rows to FILE")
    options.add_argument("--gallery", metavar="NPZ", type=Path, help="fingerprints that verdicts are learned from")
    options.add_argument(
        "--held", metavar="NPZ", type=Path, help="fingerprints that verdicts are judged on; one file alone is split"
    )
    options.add_argument("--list", action="store_true", help="list the benchmarks and stop")
    options.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)  # a child process: rows to --json, no table
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parser()
    asked = options.parse_args(arguments)
    # A benchmark runs in a process of its own: what it is to read travels in the environment.
    given = {"BENCH_GALLERY": asked.gallery, "BENCH_HELD": asked.held}
    os.environ.update({name: str(path.absolute()) for name, path in given.items() if path})
    known = frame.names()
    if asked.list:
        print("\n".join(f"{name:16} {frame.first_line(name)}" for name in known))
        return 0
    if asked.one:
        return _one(asked.one, asked.json, small=asked.small)
    unknown = sorted(set(asked.only or ()) - set(known))
    if unknown:
        options.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(known)}")
    rows: list[frame.Row] = []
    failed = []
    for name in asked.only or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        found, status = _in_a_process(name, small=asked.small)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{name}: {time.monotonic() - start:,.0f} s, {cpu:,.0f} s of CPU", file=sys.stderr, flush=True)
        rows += found
        if status:
            failed.append(name)
    print(frame.table(rows), flush=True)
    missed = {row.name: told for row in rows if (told := frame.missed(row))}
    for name, told in missed.items():
        print(f"not met: {name}: {told}", file=sys.stderr)
    if asked.json:
        asked.json.write_text(frame.dump(rows))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed or (missed and not asked.small)))


def _in_a_process(name: str, *, small: bool) -> tuple[list[frame.Row], int]:
    """The rows one benchmark measured in a fresh process (those before a failure, too) and its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        command = [
            sys.executable,
            "-m",
            "benchmarks",
            "--one",
            name,
            "--json",
            str(out),
            *(["--small"] if small else []),
        ]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        # What a benchmark's own commands say is progress: standard output is the table's.
        status = subprocess.run(
            command, cwd=Path(__file__).parents[1], env=environment, stdout=sys.stderr.fileno()
        ).returncode
        lines = out.read_text().splitlines() if out.exists() else []
    entries = [json.loads(line) for line in lines]
    return [frame.Row(**entry) for entry in entries], status


def _one(name: str, out: Path, *, small: bool) -> int:
    """Measure one benchmark here, each row written as soon as it is known."""
    with open(out, "w") as stream:
        try:
            for row in frame.measure(name, small=small):
                print(frame.line(row), file=sys.stderr, flush=True)
                stream.write(json.dumps({**vars(row), "quality": dict(row.quality), "size": dict(row.size)}) + "\n")
                stream.flush()
        except frame.FellShort as short:
            print(f"{name}: {short}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
