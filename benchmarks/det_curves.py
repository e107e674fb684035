"""Detection error trade-off by weights and by behaviour, for galleries of 10³ to 10⁶ people.

``python -m benchmarks.det_curves [--gallery NPZ] [--out docs/figures/det.svg] [--most 1000000]``

Measured: the mini world's 1,000 registered, 112 retrained people that nothing was learned from, 56 strangers; and with
``--gallery`` the file's people (behaviour only), half of its repeats learned from and half judged. Beyond, drawn
dashed: by behaviour **synthetic** people from a kernel estimate of the registered, their trainings with the spread that
repeats showed (a synthetic 10³ stands beside the measured one, to be compared); by weights the measured searches, each
one's upper tail **extrapolated**, because no simple noise makes LoRAs as unlike as training does. Prints the share of
right answers missed at one false alarm in a hundred searches, and writes the curves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.fingerprints import LEARNED, World
from examples.miniworld.identities import FIT
from examples.miniworld.unpack import BASE_MODEL
from w2w_registry.space.fit import fit_space
from w2w_registry.space.intervals import share
from w2w_registry.space.verdict import Repeats, VerdictModel, learn

Array = NDArray[np.float64]
SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
ASKED: Final = 200
"""Synthetic people searched for, and as many strangers."""
CHUNK: Final = 10_000
ALARM: Final = 0.01
QUICK: Final = "behaviour, quickly trained"
"""The file's LoRAs, which were trained for seconds; drawn paler than the others."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What one gallery gave: the score of each right answer that came first (−inf for the others), and of the best
    candidate of each stranger."""

    by: str
    size: int
    synthetic: bool
    right: Array
    strangers: Array

    def missed(self, alarms: float) -> float:
        return float((self.right <= np.quantile(self.strangers, 1 - alarms)).mean())

    def curve(self) -> tuple[Array, Array]:
        """False alarms per search and misses, at every threshold."""
        at = np.unique(np.concatenate([self.right[np.isfinite(self.right)], self.strangers]))[::-1]
        alarms = (self.strangers[None, :] >= at[:, None]).mean(1)
        return alarms, (self.right[None, :] < at[:, None]).mean(1)


def trial(by: str, scores: Array, of: NDArray[np.int64], strangers: Array) -> Trial:
    """Of measured scores (q, n) and (s, n)."""
    own = scores[np.arange(len(of)), of]
    return Trial(by, scores.shape[1], False, np.where(scores.argmax(1) == of, own, -np.inf), strangers.max(1))


# -- behaviour ---------------------------------------------------------------------------------------
def synthetic_behaviour(
    model: VerdictModel, gallery: Array, size: int, rng: np.random.Generator, by: str = "behaviour"
) -> Trial:
    """People from the model's own kernels, trainings from its within-person spread."""
    g, h = model.project(gallery), model.bandwidth
    root = np.linalg.cholesky(model.between) @ np.linalg.inv(np.linalg.cholesky(model.between + model.within))
    kernel, grain = np.linalg.cholesky(h * model.between), np.linalg.cholesky(model.within)

    def people(count: int) -> Array:
        near = g[rng.integers(len(g), size=count)] @ root.T
        return np.asarray(np.sqrt(1 - h) * near + rng.normal(size=(count, g.shape[1])) @ kernel.T)

    def trained(who: Array) -> Array:
        louder = 1 + model.trainings[0].amplitude * rng.normal(size=(len(who), 1))
        return np.asarray(louder * who + rng.normal(size=who.shape) @ grain.T)

    who, absent = people(ASKED), people(ASKED)
    asked = np.concatenate([trained(who), trained(absent)])
    # A projected point is a fingerprint: the model's directions are orthonormal.
    back: Callable[[Array], Array] = lambda rows: rows @ model.directions + model.centre  # noqa: E731
    crowd = back(trained(people(min(size, 4096))))
    queries = back(asked)
    # The crowd stands for everybody in the denominator, which is the same for all candidates of a query.
    level = model.score(queries, crowd).max(1) - _same(model, asked, model.project(crowd)).max(1)
    own = _same(model, asked[:ASKED], trained(who)).diagonal() + level[:ASKED]
    best = np.full(2 * ASKED, -np.inf)
    for start in range(0, size - ASKED, CHUNK):
        others = trained(people(min(CHUNK, size - ASKED - start)))
        best = np.maximum(best, _same(model, asked, others).max(1) + level)
    return Trial(by, size, True, np.where(own > best[:ASKED], own, -np.inf), best[ASKED:])


def _same(model: VerdictModel, asked: Array, others: Array) -> Array:
    """log p(query | person) up to a constant of the query, (q, n)."""
    return np.asarray(np.logaddexp.reduce([view.same(asked, others) for view in model.views], axis=0))


# -- weights -----------------------------------------------------------------------------------------
class Weights:
    """Half-whitened coordinates of a space fitted on the registered, compared by cosine."""

    def __init__(self, world: World) -> None:
        theta = world.loras.theta
        space = fit_space(theta[:FIT], world.loras.layout, base_model=BASE_MODEL)
        weight = np.maximum(space.component_std, 1e-6 * space.component_std.max()).astype(np.float64) ** -0.5
        self.first, self.again = (space.project(t) * weight for t in (theta, world.loras.retrained))

    def scores(self) -> tuple[Array, NDArray[np.int64], Array]:
        """Cosines of the judged retrained (q, n), whom they draw, and of strangers (s, n)."""
        unit, of = _unit(self.first), np.arange(LEARNED, len(self.again))
        return _unit(self.again[of]) @ unit[:FIT].T, of, unit[FIT:] @ unit[:FIT].T


def extrapolated(by: str, scores: Array, of: NDArray[np.int64], strangers: Array, size: int) -> Trial:
    """What measured searches (q, n) and (s, n) would meet among more people: every search's own upper tail (its best
    twentieth, exponential) carried on to ``size`` draws (Gumbel's law of maxima)."""
    rng, own = np.random.default_rng(size), scores[np.arange(len(of)), of]
    others = scores.copy()
    others[np.arange(len(of)), of] = -np.inf

    def best(rows: Array) -> Array:
        top = np.sort(rows, axis=1)[:, -(len(rows[0]) // 20) :]
        level, excess = top[:, 0], (top - top[:, :1]).mean(1)
        return np.asarray(level + excess * (np.log(size / 20) + rng.gumbel(size=len(rows))))

    right = np.where(own > np.maximum(best(others), others.max(1)), own, -np.inf)
    return Trial(by, size, True, right, np.maximum(best(strangers), strangers.max(1)))


def _unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


# -- all of it ---------------------------------------------------------------------------------------
def trials(path: Path | None, most: int) -> Iterator[Trial]:
    world, rng = World(), np.random.default_rng(0)
    model = learn(world.gallery, [world.repeats()])
    of = np.arange(LEARNED, len(world.again))
    weights = Weights(world).scores()
    yield trial("weights", *weights)
    yield trial(
        "behaviour", model.score(world.again[of], world.gallery), of, model.score(world.strangers, world.gallery)
    )
    if path is not None:
        with np.load(path) as file:
            gallery, queries, strangers = (file[k].astype(np.float64) for k in ("gallery", "queries", "strangers"))
            of = file["queries_of"]
        turn = rng.permutation(len(of))
        taught, judged = turn[: len(of) // 2], turn[len(of) // 2 :]
        larger = learn(gallery, [Repeats("retrained", queries[taught], of[taught])])
        parts = [larger.score(part, gallery) for part in np.array_split(strangers, 8)]
        yield trial(QUICK, larger.score(queries[judged], gallery), of[judged], np.concatenate(parts))
        for size in SIZES[1:]:
            if size <= min(most, 100_000):
                yield synthetic_behaviour(larger, gallery, size, rng, QUICK)
    for size in SIZES:
        if size <= most:
            yield synthetic_behaviour(model, world.gallery, size, rng)
            if size > FIT:
                yield extrapolated("weights", *weights, size)


def svg(found: list[Trial]) -> str:
    """Two panels with logarithmic axes; measured curves solid, synthetic ones dashed."""
    side, gap, low = 300, 70, 3e-3
    shades = {3: "#1b6ca8", 4: "#2a9d6f", 5: "#d98e04", 6: "#b23a48"}

    def at(value: float) -> float:
        return float(np.log10(max(value, low) / low) / np.log10(1 / low))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * (side + gap) + 20} {side + 95}" '
           'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>']  # fmt: skip
    for panel, by in enumerate(("weights", "behaviour")):
        left, top = 55 + panel * (side + gap), 30
        frame = f'width="{side}" height="{side}" fill="none" stroke="#888"'
        out.append(f'<text x="{left}" y="20" font-weight="bold">by {by}</text><rect x="{left}" y="{top}" {frame}/>')
        for tick in (0.01, 0.1, 1.0):
            x, y = left + side * at(tick), top + side * (1 - at(tick))
            out.append(f'<path d="M{x:.0f} {top}v{side}M{left} {y:.0f}h{side}" stroke="#ddd"/>'
                       f'<text x="{x:.0f}" y="{top + side + 16}" text-anchor="middle">{tick:g}</text>'
                       f'<text x="{left - 5}" y="{y + 4:.0f}" text-anchor="end">{tick:g}</text>')  # fmt: skip
        below = f'x="{left + side / 2}" y="{top + side + 34}" text-anchor="middle"'
        out.append(f"<text {below}>false alarms per search</text>")
        for one in found:
            if not one.by.startswith(by):
                continue
            alarms, misses = one.curve()
            steps = " ".join(f"{left + side * at(a):.1f},{top + side * (1 - at(m)):.1f}"
                             for a, m in zip(alarms, misses, strict=True))  # fmt: skip
            dash = ' stroke-dasharray="5 3"' if one.synthetic else ""
            if one.by == QUICK:
                dash += ' stroke-opacity="0.55"'
            shade = shades[round(np.log10(one.size))]
            out.append(f'<polyline points="{steps}" fill="none" stroke="{shade}" stroke-width="1.6"{dash}/>')
    out.append(f'<text x="14" y="{30 + side / 2}" transform="rotate(-90 14 {30 + side / 2})" text-anchor="middle">'
               "right answers missed</text>")  # fmt: skip
    for n, (power, shade) in enumerate(shades.items()):
        out.append(f'<text x="{55 + 90 * n}" y="{side + 86}" fill="{shade}">10^{power} people</text>')
    out.append(f'<text x="{55 + 90 * 4}" y="{side + 86}">dashed: not measured; pale: quickly trained</text></svg>')
    return "\n".join(out) + "\n"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/det.svg"))
    parser.add_argument("--most", type=int, default=SIZES[-1])
    args = parser.parse_args()
    print(
        "| by | people | | first place | missed at 1% false alarms | strangers |\n| --- | --- | --- | --- | --- | --- |"
    )
    found = []
    for one in trials(args.gallery, args.most):
        found.append(one)
        cells = [
            one.by,
            f"{one.size:,}",
            "measured" if not one.synthetic else "extrapolated" if one.by == "weights" else "synthetic",
            str(share(np.isfinite(one.right))),
        ]
        print("| " + " | ".join([*cells, f"{one.missed(ALARM):.3f}", str(len(one.strangers))]) + " |", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(svg(found))


if __name__ == "__main__":
    main()
