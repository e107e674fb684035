"""A newcomer's two commands: 300 mixed files added to a bare home, who is who among them, and the first search.

The people are LoRAs of the mini world: 150 trained once, 56 of them trained again from other photos, 40 of them saved
again (rounded, rescaled, factored anew, in another format). Beside them lie 24 LoRAs of a transformer and 30 files of
other kinds, some of them broken. Names say nothing about who is drawn. Each command runs as a process of its own, from
a home folder that does not exist yet; what it takes to install packages is not counted.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.frame import Row, held
from examples.miniworld.identities import FIT
from examples.miniworld.unpack import BASE_MODEL, Loras, load_loras
from tests.cli.test_many_files import OTHERS, transformer
from w2w_registry.lora import write_lora

ONCE, TWICE, COPIES, TRANSFORMER, OTHER = 150, 56, 40, 24, 30
RIGHT, LONGEST = 0.95, 60.0
FORMS = (("diffusers", "fp32"), ("kohya", "fp32"), ("diffusers", "fp16"), ("kohya", "bf16"))


def rows(small: bool) -> Iterator[Row]:
    world = load_loras()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as place:
        folder, home, asked = Path(place) / "folder", Path(place) / "home", Path(place) / "asked.safetensors"
        counts = (75, 28, 20, 24, 14) if small else (ONCE, TWICE, COPIES, TRANSFORMER, OTHER)
        truth, wanted = make_folder(world, folder, *counts)
        write(world, asked, world.retrained[wanted], 0)
        done, adding = run(home, "add", folder, "--yes", "--json", allowed=(0, 5))
        groups, grouping = run(home, "groups", "--json")
        found, searching = run(home, "search", asked, "--json")
        yield accounted(done, truth, folder, adding)
        yield paired(named(done, truth, folder), groups["groups"], grouping)
        yield first_answer(named(done, truth, folder)[found["results"][0]["identity"]] == wanted, adding, searching)


def make_folder(
    world: Loras, folder: Path, once: int, twice: int, copies: int, flux: int, other: int
) -> tuple[dict[str, int], int]:
    """Write the files; returns whom each LoRA of a person draws, by its path under ``folder``, and one of those who are
    there once though they were trained twice."""
    rng = np.random.default_rng(13)
    people = [int(i) for i in rng.permutation(len(world.retrained))[: twice + 1]]
    people += [int(i) for i in rng.permutation(np.arange(len(world.retrained), FIT))[: once - len(people)]]
    trained = [(person, world.theta[person], number % 2) for number, person in enumerate(people)]
    trained += [(person, world.retrained[person], number % 2) for number, person in enumerate(people[:twice])]
    saved = [(person, world.theta[person], 2 + number % 4) for number, person in enumerate(people[-copies:])]
    truth: dict[str, int] = {}
    for number, (person, theta, form) in zip(rng.permutation(len(trained) + copies), trained + saved, strict=True):
        name = f"set{number % 7}/model-{number:03d}.safetensors"
        write(world, folder / name, theta, form)
        truth[name] = person
    for number in range(flux):
        (folder / "flux").mkdir(exist_ok=True)
        transformer(folder / "flux" / f"other-{number:02d}.safetensors", number)
    for number in range(other):
        (folder / "misc").mkdir(exist_ok=True)
        OTHERS[number % len(OTHERS)](folder / "misc" / f"thing-{number:02d}.safetensors", number)
    return truth, people[twice]


def write(world: Loras, path: Path, theta: NDArray[np.float32], form: int) -> None:
    """A LoRA in one of six forms: two formats, two of them rounded, one rescaled, one with factors mixed anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = world.layout.unflatten(theta)
    if form >= len(FORMS):
        turn = np.float32(-3.0 if form == len(FORMS) else 0.02)
        tensors = {key: value * (turn if key[1] == "A" else 1 / turn) for key, value in tensors.items()}
    fmt, dtype = FORMS[form % len(FORMS)]
    write_lora(path, tensors, world.layout.alpha, fmt=fmt, dtype=dtype, base_model=BASE_MODEL)  # type: ignore[arg-type]


def run(home: Path, *words: str | Path, allowed: tuple[int, ...] = (0,)) -> tuple[Any, tuple[float, float]]:
    """A command's JSON, and the seconds of wall time and of CPU that its process took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [str(Path(sys.executable).parent / "w2w-reg"), "--home", str(home), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in allowed, done.stderr
    return json.loads(done.stdout), (wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def accounted(done: dict[str, Any], truth: dict[str, int], folder: Path, taken: tuple[float, float]) -> Row:
    there = {str(path) for path in folder.rglob("*") if path.is_file()}
    told = {one["file"]: name for name in ("added", "existing", "failed", "skipped") for one in done[name]}
    usable = sum(told.get(str(folder / name)) in ("added", "existing") for name in truth)
    explained = all(one["reason"] for name in ("failed", "skipped") for one in done[name])
    targets = {
        "every file in one list": there == set(told) and explained,
        "everybody's registered": usable == len(truth),
        "spaces fitted: 2": len(done["spaces"]) == 2,
    }
    counts = {name: len(done[name]) for name in ("added", "existing", "failed", "skipped", "spaces")}
    return Row(
        "add", taken[0], None, "", {**counts, "targets": held(targets), "CPU s": taken[1]}, {"files": len(there)}
    )


def named(done: dict[str, Any], truth: dict[str, int], folder: Path) -> dict[str, int]:
    """Whom each registered identity draws, as far as it is of a person."""
    drawn = {str(folder / name): person for name, person in truth.items()}
    return {one["identity"]: drawn[one["file"]] for one in done["added"] if one["file"] in drawn}


def paired(who: dict[str, int], groups: list[list[str]], taken: tuple[float, float]) -> Row:
    """Pairs of registered LoRAs: those of one person found in one group, and those of two people joined."""
    group = {name: number for number, names in enumerate(groups) for name in names}
    found = missed = joined = 0
    for (one, mine), (other, theirs) in itertools.combinations(who.items(), 2):
        together = group.get(one, one) == group.get(other, other)
        found += mine == theirs and together
        missed += mine == theirs and not together
        joined += mine != theirs and together
    share = found / (found + missed + joined)  # thousands of pairs that nobody joins would flatter it
    quality = {"found": found, "missed": missed, "of two people": joined, "right": share}
    target = held({f"≥ {RIGHT:g} right": share >= RIGHT})
    return Row("groups", taken[0], None, "", {**quality, "targets": target, "CPU s": taken[1]}, {"models": len(who)})


def first_answer(right: bool, adding: tuple[float, float], searching: tuple[float, float]) -> Row:
    wall = adding[0] + searching[0]
    target = held({"right person": right, f"≤ {LONGEST:g} s": wall <= LONGEST})
    return Row("from nothing to the first answer", wall, None, "", {"targets": target}, {"commands": 2})
