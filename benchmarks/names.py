"""How often a model is held for not looking like the versions before it, under its own name and under others'.

``python -m benchmarks.names [--people 1000]``. Of the mini world, so many people are registered under names of their
own. Then further trainings of them come in, by way of training, under their own names and each under the names of
``OTHERS`` people drawn at random; and strangers under the names of as many. By what they draw, as presumed noise tells
it (``services.consent.namesakes`` holds from ``UNLIKE``); and, for LoRAs of the same start, by their weights
(``UNLIKE_PAIRS``), with the calibration that a fit on the registered makes. Prints docs/consent.md's table.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.fingerprints import UNFINISHED, by_kind
from examples.miniworld.identities import FIT
from examples.miniworld.unpack import BASE_MODEL, load_loras
from w2w_registry.services.consent.namesakes import UNLIKE, UNLIKE_PAIRS
from w2w_registry.services.spaces.calibrated import FALSE_MATCH_RATE
from w2w_registry.space.crossfit import cross_fit, inner_products
from w2w_registry.space.fit import fit
from w2w_registry.space.intervals import share
from w2w_registry.space.metrics import calibrate_scores, default_metric, false_alarm_among
from w2w_registry.space.people import learn_unspoilt

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
OTHERS = 10
NAMES = {"queries": "retrained"}


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.names", description=__doc__.partition("\n")[0])
    options.add_argument("--people", type=int, default=FIT)
    people = options.parse_args(arguments).people
    print("| compared by | come in | held under their own name | held under another's |\n| --- | --- | --- | --- |")
    for by, kind, own, others in (*drawn(people), *weighed(people)):
        mine = "–" if own is None else str(share(own))
        print(f"| {by} | {kind} | {mine} | {share(others.ravel())} |", flush=True)
    return 0


def drawn(people: int) -> list[tuple[str, str, NDArray[np.bool_] | None, NDArray[np.bool_]]]:
    """By what is drawn: who is held (m,) under their own names, and (m, OTHERS) under others'."""
    gallery, asked, of, strangers = by_kind()
    gallery = gallery[:people]
    model = learn_unspoilt(gallery, people=np.arange(people))
    rng = np.random.default_rng(0)
    found = []
    finished = np.zeros(0, bool)
    for kind in sorted(asked, key=lambda kind: kind in UNFINISHED):
        there = of[kind] < people
        unlike = model.strangers.false_alarm(model.score(asked[kind][there], gallery), people) >= UNLIKE
        own, others = under(unlike, of[kind][there], rng)
        found.append(("what is drawn", NAMES.get(kind, kind), own, others))
        if kind not in UNFINISHED:
            finished = np.concatenate([finished, own])
    unlike = model.strangers.false_alarm(model.score(strangers, gallery), people) >= UNLIKE
    found.append(("what is drawn", "strangers", None, names_of_others(unlike, None, rng)))
    every = np.concatenate([others for _, kind, _, others in found if kind not in (*UNFINISHED, "strangers")])
    return [*found, ("what is drawn", "all finished trainings", finished, every)]


def weighed(people: int) -> list[tuple[str, str, NDArray[np.bool_] | None, NDArray[np.bool_]]]:
    """The same by weights, of LoRAs of the same start."""
    loras, rng = load_loras(), np.random.default_rng(0)
    space = fit(loras.theta[:people], loras.layout, base_model=BASE_MODEL).space
    metric = default_metric(space.component_std)
    left_out = cross_fit(inner_products(loras.theta[:people], space), space.k, default_metric)
    line = calibrate_scores(metric.name, left_out.impostors, false_match_rate=FALSE_MATCH_RATE).threshold

    def unlike(theta: NDArray[np.float32]) -> NDArray[np.bool_]:
        scores = metric.unit(space.project(theta)) @ metric.unit(space.project(loras.theta[:people])).T
        return np.asarray(false_alarm_among(scores, line, FALSE_MATCH_RATE, 1) >= UNLIKE_PAIRS)

    again = loras.retrained[:people]
    own, others = under(unlike(again), np.arange(len(again)), rng)
    strangers = names_of_others(unlike(loras.theta[FIT:]), None, rng)
    return [("weights", "retrained", own, others), ("weights", "strangers", None, strangers)]


def under(unlike: NDArray[np.bool_], of: Rows, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of (m, people) whose names each is unlike: its own (m,), and those of others (m, OTHERS)."""
    return unlike[np.arange(len(of)), of], names_of_others(unlike, of, rng)


def names_of_others(unlike: NDArray[np.bool_], of: Rows | None, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Under the names of ``OTHERS`` people drawn for each."""
    people = unlike.shape[1]
    own = np.full(len(unlike), -1) if of is None else of
    chosen = [rng.choice(np.setdiff1d(np.arange(people), one), OTHERS, replace=False) for one in own]
    return np.take_along_axis(unlike, np.array(chosen).reshape(-1, OTHERS), 1)


if __name__ == "__main__":
    raise SystemExit(main())
