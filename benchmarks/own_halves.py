"""How much a verdict depends on who teaches and who is judged: halves of the people of one file, drawn again and again.

``python -m benchmarks.own_halves NPZ [--draws 8]``. Per draw, half of the people with queries teach and the other half
are judged, and the other way round, in the whole gallery; the line is drawn by half of the strangers, as a file held
back would bring them, and by all. Prints the share accepted at one false alarm in a hundred searches, and who is missed
in half of the draws or more, whoever teaches.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.cases.verdict import KINDS, NAMES, Data, judged


def halves(data: Data, draws: int) -> Iterator[tuple[Data, Data]]:
    """(learn from, judge on): each half of the people and strangers in turn."""
    people = np.unique(np.concatenate([data.of[kind] for kind in KINDS]))
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        order, strangers = rng.permutation(people), rng.permutation(len(data.strangers))
        cut, half = len(people) // 2, len(strangers) // 2
        for mine, theirs, met in (
            (order[:cut], order[cut:], strangers[:half]),
            (order[cut:], order[:cut], strangers[half:]),
        ):
            yield data.only(mine), replace(data.only(theirs), strangers=data.strangers[met])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=8)
    given = parser.parse_args()
    data = Data.read(given.file)
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    missed: Counter[tuple[str, int]] = Counter()
    for teach, judge in halves(data, given.draws):
        model = teach.model()
        for kind in KINDS:
            few, every = (judged(model, one, kind) for one in (judge, replace(judge, strangers=data.strangers)))
            missed.update((kind, int(who)) for who in judge.of[kind][~few.accepted])
            found[kind].append((float(few.accepted.mean()), float(every.accepted.mean()), float(few.first.mean())))
    print("| judged | half of the strangers: mean, each half | all strangers: mean, least | recall@1: mean, least |")
    print("| --- | --- | --- | --- |")
    for kind, rows in found.items():
        few, every, first = np.array(rows).T
        each = " ".join(f"{one:.3f}" for one in few)
        print(
            f"| {NAMES[kind]} | {few.mean():.4f}: {each} | {every.mean():.4f}, {every.min():.3f} | "
            f"{first.mean():.4f}, {first.min():.3f} |"
        )
    # Everybody is judged once a draw.
    often = [f"{NAMES[kind]} {who}: {n}" for (kind, who), n in missed.most_common() if 2 * n >= given.draws]
    print(f"Missed in half of {given.draws} draws or more: {', '.join(often) or 'nobody'}")


if __name__ == "__main__":
    main()
