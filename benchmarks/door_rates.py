"""How often the door refuses a stranger, and how often it misses somebody who refused.

``python -m benchmarks.door_rates``. Data: the mini world. Per fold, a space is fitted on the 224 identities that were
trained twice and 300 others; a hundred of the 224 refuse, and their references are what ``services.consent.door``
keeps (signs of projections, thresholds from those registered). Strangers are the people the fold was not fitted on,
none of whom set a threshold. Held against the references: strangers; copies of the refused (rounded, with noise,
mixed with a stranger); and their second trainings. Then what was made of second trainings outside the registry
(``benchmarks.door_made``). Then strangers where anybody may be who refuses, and the same by what they draw, of the mini
world and of half of the people of ``--gallery NPZ`` (as ``benchmarks --only verdict`` reads them):
``benchmarks.door_behaviour``. Prints docs/door.md's tables and exits 1 when strangers or copies fall short of them, or
too many trainings pass.
``--people odd``: only people of the mini world who have odd numbers are judged by what they draw, none of whom anything
was chosen on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases.verdict import Data
from benchmarks.door_behaviour import (
    REGISTRIES,
    STRANGER,
    Judging,
    Registry,
    by_anybody,
    even,
    everybody,
    judged_half,
    odd,
    table,
)
from benchmarks.door_made import table as made_table
from examples.miniworld.fingerprints import UNFINISHED, by_kind
from examples.miniworld.fingerprints import data as shipped_data
from examples.miniworld.unpack import DATA, load_loras
from w2w_registry.consent.references import bits_of, cosines, threshold
from w2w_registry.lora.tensorfile import round_to
from w2w_registry.space.fit import fit_space
from w2w_registry.space.metrics import default_metric
from w2w_registry.space.start import canonical_rows, common_start

KEY = bytes(32)
TWICE, ALSO, REFUSED, FOLDS = 224, 300, 100, 4
ANYBODY, DRAWS = (424, 800), 100
JUDGING = {"all": everybody, "odd": odd, "even": even}
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``tries`` were refused."""

    what: str
    hits: int
    tries: int


def fold(seed: int) -> list[Rate]:
    """The rates of one fold."""
    stored = load_loras(DATA)
    layout, rng = stored.layout, np.random.default_rng(seed)
    others = rng.permutation(np.arange(TWICE, len(stored.theta)))
    fitted, out = np.concatenate([np.arange(TWICE), others[:ALSO]]), others[ALSO:]
    start = common_start(stored.theta[fitted], layout).values
    theta = canonical_rows(stored.theta, layout, start)
    space = fit_space(theta[fitted], layout, base_model="benchmark", start=start)
    metric = default_metric(space.component_std)

    def bits(rows: NDArray[np.float32]) -> Bits:
        return bits_of(metric.unit(space.project(canonical_rows(rows, layout, start))), KEY, "benchmark")

    who = rng.permutation(TWICE)[:REFUSED]
    kept, registered = bits(stored.theta[who]), bits(stored.theta[np.setdiff1d(fitted, who)])
    limits = np.array([threshold(cosines(one, registered)) for one in kept])

    def refused(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(n, REFUSED): by which reference each is refused."""
        return np.stack([cosines(one, kept) >= limits for one in bits(rows)])

    spread = stored.theta[fitted].std(axis=0)
    own = np.arange(REFUSED)
    partner = stored.theta[out[:REFUSED]]
    copies = {"rounded to bf16": round_to(stored.theta[who], "bf16")}
    for share in (0.1, 0.5, 1.0):
        noise = share * spread * rng.normal(size=(REFUSED, layout.dim))
        copies[f"with noise of {share:g} times people's spread"] = (stored.theta[who] + noise).astype(np.float32)
    for share in (0.9, 0.7, 0.5):
        copies[f"mixed, {share:g} of them"] = (share * stored.theta[who] + (1 - share) * partner).astype(np.float32)
    rates = [Rate("stranger (per add, a hundred refuse)", int(refused(stored.theta[out]).any(1).sum()), len(out))]
    rates += [Rate(f"copy {name}", int(refused(rows)[own, own].sum()), REFUSED) for name, rows in copies.items()]
    rates.append(Rate("trained again", int(refused(stored.retrained[who])[own, own].sum()), REFUSED))
    return rates


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=Path, help="fingerprints of many more people")
    parser.add_argument("--people", choices=tuple(JUDGING), default="all", help="of the mini world, who is judged")
    given = parser.parse_args(argv)
    total: dict[str, Rate] = {}
    for seed in range(FOLDS):
        for rate in fold(seed):
            before = total.get(rate.what, Rate(rate.what, 0, 0))
            total[rate.what] = Rate(rate.what, before.hits + rate.hits, before.tries + rate.tries)
    print("| held against a hundred references | refused | of | share |\n| --- | --- | --- | --- |")
    for rate in total.values():
        print(f"| {rate.what} | {rate.hits} | {rate.tries} | {rate.hits / rate.tries:.4f} |")
    strangers = total["stranger (per add, a hundred refuse)"]
    copies = [rate for rate in total.values() if "copy" in rate.what and "noise" not in rate.what]
    short = strangers.hits > 0.005 * strangers.tries or any(rate.hits < rate.tries for rate in copies)
    judging = JUDGING[given.people]
    text, fell_short = made_table(FOLDS, judging)
    print(f"\n{text}")
    short |= fell_short
    registries = [one for one in REGISTRIES if judging is everybody or not one.taught]  # half of them are too few
    gallery, asked, of, strangers = by_kind()
    for registered in ANYBODY:
        said, rate = by_anybody(Data(gallery, asked, of, strangers), registered, DRAWS, judging)
        print(f"\n{said}")
        short |= rate.refused > 1e-3 * rate.tries
    short |= _behaviour("mini world, by way of training", Data(gallery, asked, of, strangers), registries[:1], judging)
    short |= _behaviour("mini world", Data(*shipped_data()), registries, judging)
    if given.gallery is not None:
        short |= _behaviour(f"half of {given.gallery.stem}", judged_half(Data.read(given.gallery)), REGISTRIES)
    return int(short)


def _behaviour(name: str, data: Data, registries: Sequence[Registry], judging: Judging = everybody) -> bool:
    """Print a table; whether it falls short."""
    text, first = table(data, name, registries, FOLDS, judging)
    print(f"\n{text}")
    found = {rate.what: rate for rate in first}
    stranger = found.pop(STRANGER)
    missed = {what: rate for what, rate in found.items() if not what.startswith("stranger")}
    passed = [rate.passed / rate.tries for what, rate in missed.items() if what not in UNFINISHED]
    return stranger.refused > 1e-3 * stranger.tries or max(passed) > 0.02


if __name__ == "__main__":
    raise SystemExit(main())
