"""Who is there twice in a folder of 300, found by `w2w-reg add FOLDER --yes` and `w2w-reg groups` on a bare machine.

``python -m examples.miniworld.twice WORLD [--folders 6] [--twice 60] [--behaviour]`` (``WORLD``: what ``unpack`` made)
makes folders of 300 files each: so many people of the mini world with two LoRAs of their own (other photos, another
seed), people with one, and a tenth that is no LoRA of it. Files are named by number, so that no name says whom they
draw. Every folder goes into a registry of its own. Three readings of "right for 95% of pairs":

- *found*: of the pairs of files that are one person, the share that `groups` names (recall);
- *true*: of the pairs that it names, the share that is one person (precision);
- *all*: of all pairs of files, the share it is right about, one person or two. Nearly all are two, so that naming
  nobody is right about .999 of them: this reading says little.

With ``--behaviour`` the base model is named in the registry and everybody's fingerprint is taken as they are added.
Methods were tried on people at even places of the world's list; those at odd places are what this reports on.

``--draws 24`` makes no registry: it draws so many folders' LoRAs, places them in a space of their own as ``add`` does,
and asks ``space.weight_pairs`` alone, for each number of people twice (``--people even`` for those who were tried on).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.identities import FIT, RETRAINED
from examples.miniworld.unpack import Loras, load_loras, unpack
from w2w_registry.space.fit import fit_space
from w2w_registry.space.layout import Layout
from w2w_registry.space.start import canonical_rows, common_start
from w2w_registry.space.weight_pairs import Twins, pairs_by_weights

FILES = 300
MODEL = "w2w-registry/miniworld"
PEOPLE = ("even", "odd")
COUNTS = (0, 5, 10, 20, 40, 60, 100)


def main(arguments: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="python -m examples.miniworld.twice", description=__doc__.partition("\n")[0])
    options.add_argument("world", type=Path, nargs="?")
    options.add_argument("--folders", type=int, default=6)
    options.add_argument("--twice", type=int, default=60)
    options.add_argument("--behaviour", action="store_true")
    options.add_argument("--draws", type=int)
    options.add_argument("--people", choices=PEOPLE, default="odd")
    asked = options.parse_args(arguments)
    if asked.draws is not None:
        return drawn(asked.draws, asked.people)
    if asked.world is None:
        options.error("WORLD is missing")
    if not asked.world.exists():
        unpack(asked.world)
    counts = []
    for seed in range(asked.folders):
        with tempfile.TemporaryDirectory() as scratch:
            people = make_folder(Path(scratch) / "in", asked.world, asked.twice, np.random.default_rng(seed))
            found = add_and_group(Path(scratch), asked.world / "pipeline" if asked.behaviour else None)
        counts.append(judged(found["groups"], people))
        right, wrong, there = counts[-1]
        expected = found.get("false_links")
        told = "" if expected is None else f" ({expected:.1f} foretold)"
        print(f"folder {seed}: {right} of {there} pairs found, {wrong} wrong{told}, by {found['by']}", flush=True)
    right, wrong, there = np.sum(counts, 0)
    files = len(people)
    pairs = asked.folders * files * (files - 1) // 2
    print(f"found {right / max(there, 1):.3f}  true {right / max(right + wrong, 1):.3f}  "
          f"all {1 - (there - right + wrong) / pairs:.5f}")  # fmt: skip
    return 0


def drawn(draws: int, people: str) -> int:
    """Prints a table by how many people are there twice."""
    print("| people twice | of pairs found | true | wrong | foretold |\n| --- | --- | --- | --- | --- |")
    loras = load_loras()
    for twice in COUNTS:
        right = wrong = 0
        foretold = 0.0
        for seed in range(draws):
            rows, who = draw(loras, twice, seed, people)
            found = placed_and_paired(rows, loras.layout)
            same = [bool(who[pair.i] == who[pair.j]) for pair in found.pairs]
            right, wrong = right + sum(same), wrong + len(same) - sum(same)
            foretold += found.strangers
        true = right / max(right + wrong, 1)
        print(f"| {twice} | {right} of {draws * twice} | {true:.3f} | {wrong} | {foretold:.1f} |", flush=True)
    return 0


def draw(loras: Loras, twice: int, seed: int, people: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """θ of the LoRAs that a folder would have (n, D), and whom each draws (n,)."""
    rng, half = np.random.default_rng(seed), PEOPLE.index(people)
    both = rng.choice(np.arange(RETRAINED)[half::2], twice, replace=False)
    once = rng.choice(np.arange(RETRAINED, FIT)[half::2], FILES - FILES // 10 - 2 * twice, replace=False)
    rows = np.concatenate([loras.theta[both], loras.theta[once], loras.retrained[both]])
    order = rng.permutation(len(rows))
    return rows[order], np.concatenate([both, once, both])[order]


def placed_and_paired(rows: NDArray[np.float32], layout: Layout) -> Twins:
    """Who is there twice among rows of θ (n, D), by their coordinates in a space of their own."""
    start = common_start(rows, layout).values
    theta = canonical_rows(rows, layout, start)
    space = fit_space(theta, layout, base_model=MODEL, start=start)
    parts = [space.components[part] for _, part in layout.slices()]
    return pairs_by_weights(space.project(theta), np.arange(len(rows)), parts)


def make_folder(folder: Path, world: Path, twice: int, rng: np.random.Generator) -> dict[str, str]:
    """The files, as links; returns whom each name draws."""
    again = sorted(path.name for path in (world / "retrained").iterdir())
    names = sorted(path.name for path in (world / "loras").iterdir())
    both = rng.choice(again[1::2], twice, replace=False).tolist()
    alone = [name for name in names[1::2] if name not in set(again)]
    other = FILES // 10
    once = rng.choice(alone, FILES - other - 2 * twice, replace=False).tolist()
    paths = [world / "loras" / name for name in (*both, *once)] + [world / "retrained" / name for name in both]
    folder.mkdir(parents=True)
    people = {}
    for number, i in enumerate(rng.permutation(len(paths)).tolist()):
        (folder / f"file{number:03d}").symlink_to(paths[i].resolve())
        people[f"file{number:03d}"] = paths[i].name
    for number in range(other):
        (folder / f"other{number:02d}.safetensors").write_bytes((b"", b"no model\n", bytes(64))[number % 3])
    return people


def add_and_group(scratch: Path, pipeline: Path | None) -> dict[str, Any]:
    """What the two commands say, on a machine without a registry (or with one that knows its base model)."""
    home = scratch / "home"
    if pipeline is not None:
        run(home, "init")
        run(home, "config", "set", f"pipelines.{MODEL}", str(pipeline.resolve()))
    run(home, "add", str(scratch / "in"), "--yes", "--json", may_fail=True)
    found: dict[str, Any] = json.loads(run(home, "groups", "--json"))
    return found


def run(home: Path, *words: str, may_fail: bool = False) -> str:
    program = Path(sys.executable).parent / "w2w-reg"
    done = subprocess.run([str(program), "--home", str(home), *words], capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise SystemExit(f"w2w-reg {' '.join(words)}: {done.stderr}")
    return done.stdout


def judged(groups: list[list[str]], people: dict[str, str]) -> tuple[int, int, int]:
    """(pairs named that are one person, named that are two, there are)."""
    named = [pair for group in groups for pair in combinations(group, 2)]
    right = sum(people[a] == people[b] for a, b in named)
    return right, len(named) - right, sum(people[a] == people[b] for a, b in combinations(people, 2))


if __name__ == "__main__":
    sys.exit(main())
