"""``python -m tests.services.consent.insider --work DIR [--steps 10000]``: the campaign, resumable, and its figure.

Runs of ``EACH`` steps, each from a copy of one registry and with a seed of its own; every tenth run in a registry whose
policy says that one person decides alone. What a run found is kept in ``DIR/run-NNN.json``; run again to go on, with
``--runs 0-19`` and ``--runs 20-39`` in two processes side by side. What is told at the end is of every run there is.

Who got out is listed; apart, with the event, whom that one person let out by a decision that such a policy leaves to
them. Exits 1 when anybody else got out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from examples.miniworld.unpack import load_loras
from tests.services.consent.insider import repertoire  # noqa: F401
from tests.services.consent.insider.eyes import Eyes
from tests.services.consent.insider.world import Scale, build, foreign_files, late, playing, remembered
from w2w_registry.catalog.session import HEAD

EACH = 250
KINDS = ("rank4-qkvo", "rank1-own-start")


def one_run(work: Path, eyes: Eyes, foreign: list[tuple[Path, str]], number: int, steps: int) -> dict[str, Any]:
    """A run from a copy of the registry; half-way the rest of those who refuse do."""
    began = time.process_time()
    folder = work / ("alone" if number % 10 == 9 else "team")
    place = folder / f"play-{number:03d}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copy(folder / "photo.png", place)
    with playing(folder, place, eyes, foreign, seed=number) as insider:
        insider.run(steps // 2)
        late(insider)
        insider.run(steps - steps // 2)
    shutil.rmtree(place)
    return {
        "steps": steps,
        "alone": number % 10 == 9,
        "tried": dict(insider.tried),
        "done": dict(insider.done),
        "cost": {name: round(value, 3) for name, value in insider.cost.items()},
        "judged": insider.judged,
        "out": [{**asdict(one), "kind": one.kind} for one in insider.out],
        "seconds": time.process_time() - began,
    }


Runs = Mapping[int, dict[str, Any]]


def _sum(runs: Runs, key: str) -> float:
    return sum(float(run[key]) for run in runs.values())


def _escapes(runs: Runs, *, allowed: bool) -> list[tuple[int, dict[str, Any]]]:
    """(run, who got out), of those that the policy explains or of the others; runs from before it was asked explain
    none."""
    return [
        (number, one)
        for number, run in runs.items()
        for one in run["out"]
        if (one.get("allowed") is not None) is allowed
    ]


def _line(number: int, one: dict[str, Any]) -> str:
    return f"run {number} step {one['step']}: p{one['row']:04d} by {one['way']}: {one['what'][:300]}"


def report(runs: Runs) -> str:
    """The moves, whom a policy of one person let out, and who got out besides; how many those are is the last line."""
    total: dict[str, Counter[str]] = {key: Counter() for key in ("tried", "done", "cost")}
    for run in runs.values():
        for key, counter in total.items():
            counter.update(run[key])
    out, allowed = _escapes(runs, allowed=False), _escapes(runs, allowed=True)
    alone, on = sum(bool(run["alone"]) for run in runs.values()), Counter(one["allowed"]["on"] for _, one in allowed)
    lines = [
        f"{_sum(runs, 'steps'):.0f} steps in {len(runs)} runs; {_sum(runs, 'judged'):.0f} models and sets of pictures "
        f"that left were looked at; {_sum(runs, 'seconds'):.0f} CPU s",
        "",
        "| move | tried | went through | CPU s |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {tried} | {total['done'][name]} | {total['cost'][name]:.0f} |"
            for name, tried in total["tried"].most_common()
        ),
        "",
        f"{on['policy']} let out by one person alone, as the policy of {alone} of {len(runs)} runs allows; "
        f"{on['evidence']} on evidence that one person gave",
        *(
            f"{_line(number, one)}\n  allowed by event {one['allowed']['seq']}, {one['allowed']['what']}, "
            f"by {one['allowed']['actor']} alone{' on evidence' if one['allowed']['on'] == 'evidence' else ''}"
            for number, one in allowed
        ),
        "",
        *(f"out: {kind}: {n}" for kind, n in Counter(one["kind"] for _, one in out).items()),
        *(
            f"{_line(number, one)}{' (a registry of one person)' if runs[number]['alone'] else ''}"
            for number, one in out
        ),
    ]
    return "\n".join([*lines, f"{len(out)} out"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=EACH)
    parser.add_argument("--runs", help="of all the runs only these, as in 0-19")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    loras, scale = load_loras(), Scale()
    numbers = range(-(-options.steps // options.each))
    first, _, last = (options.runs or f"{numbers.start}-{numbers.stop - 1}").partition("-")
    with remembered():
        with FileLock(work / "building.lock"):
            for name in ("team", "alone"):
                done = work / name / "done"
                if not done.exists() or done.read_text() != HEAD:
                    shutil.rmtree(work / name, ignore_errors=True)
                    build(work / name, loras, scale, alone=name == "alone")
                    done.write_text(HEAD)
            eyes = Eyes.opened(loras, scale.at_hand, work / "seen.npz")
            foreign = foreign_files(work / "foreign", KINDS)
        for number in range(int(first), int(last or first) + 1):
            kept = work / f"run-{number:03d}.json"
            if not kept.exists():
                found = one_run(work, eyes, foreign, number, options.each)
                part = kept.with_suffix(".part")
                part.write_text(json.dumps(found))
                part.replace(kept)
                with FileLock(work / "seen.lock"):
                    eyes.keep()
                print(number, found["seconds"], *(_line(number, one) for one in found["out"]), sep="\n", flush=True)
    runs = {int(path.stem[4:]): json.loads(path.read_text()) for path in sorted(work.glob("run-*.json"))}
    print(report(runs))
    missing = [str(number) for number in numbers if number not in runs]
    if missing:
        print(f"still to run: {', '.join(missing)}")
    sys.exit(1 if _escapes(runs, allowed=False) else 0)


if __name__ == "__main__":
    main()
