"""What a photo can tell: whether the person it shows is registered, measured against a registry of the mini world.

``python -m examples.miniworld.photos HOME CACHE [--inverted N]`` with the registry that ``make demo`` leaves in
``OUT/registry``; about six CPU minutes, kept in CACHE. Prints the table of docs/metric.md.

Every query is one photo from a session that no LoRA and no initializer learned from. The initializer is fitted on the
photos of the first half of the registered people; of the second half it has seen nobody. Strangers are people whom
neither the space nor the initializer knows. Lines are drawn with every other person of either kind and judged by the
rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.miniworld import identities as people
from examples.miniworld.evaluation.assets import UNSEEN, Array, Assets, one_thread
from examples.miniworld.unpack import DATA
from examples.miniworld.world import sample_attributes
from w2w_registry.diffusion.initializer import Initializer, fit_initializer
from w2w_registry.diffusion.invert import InitialPoint, InvertConfig, SpaceBasis, invert
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import open_registry
from w2w_registry.services.search.query import false_alarm
from w2w_registry.settings import load_settings
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.verdict import LIKELY

TAUGHT: Final = people.FIT // 2
STRANGERS: Final = 1000
FALSE_ALARMS: Final = 0.01
AT_ONCE: Final = 40


@dataclass(frozen=True)
class World:
    """``space`` and ``threshold`` are the registry's; ``gallery`` (FIT, k) are its people, ``strangers`` (n,
    attributes) what others look like."""

    assets: Assets
    space: WeightSpace
    threshold: float
    rate: float
    gallery: Array
    strangers: Array

    @classmethod
    def load(cls, home: Path, cache: Path) -> World:
        with open_registry(load_settings(home)) as registry:
            row, space = open_space(registry, None)
        assets = Assets.load(DATA, cache)
        gallery = space.project(assets.theta[: people.FIT])
        threshold, rate = row.calibration["threshold"], row.calibration["false_match_rate"]
        strangers = sample_attributes(STRANGERS, people.SEED + 2)
        return cls(assets, space, float(threshold), float(rate), gallery, strangers)

    def photos(self, stranger: bool, index: int, session: int) -> NDArray[np.uint8]:
        """(PHOTOS, 32, 32, 3); strangers are numbered from 0, as registered people are."""
        if stranger:
            return people.photo_set(10_000 + index, self.strangers[index], session)
        return self.assets.photos(index, session)

    def features(self, name: str, photos: Callable[[int], NDArray[np.uint8]], count: int) -> Array:
        def compute() -> Array:
            starts = range(0, count, AT_ONCE)
            parts = [np.concatenate([photos(i) for i in range(s, min(s + AT_ONCE, count))]) for s in starts]
            return np.concatenate([self.assets.features(part) for part in parts])

        return self.assets.keep(name, [self.space.digest, count], compute)

    def initializer(self) -> Initializer:
        """Fitted on the training photos of the first half, as ``initializer fit --photos`` does."""
        path = self.assets.cache / f"initializer-{TAUGHT}-{self.space.digest[:16]}.npz"
        if not path.exists():
            rows = self.features("taught", lambda i: self.photos(False, i, 0), TAUGHT)
            who = np.repeat(np.arange(TAUGHT), people.PHOTOS)
            fitted = fit_initializer(rows, (self.gallery / self.space.component_std)[who], who)
            np.savez(path, **fitted.to_tensors())  # type: ignore[arg-type]
        with np.load(path) as stored:
            return Initializer.from_tensors(dict(stored))

    def guessed(self, guess: Initializer, stranger: bool, count: int) -> InitialPoint:
        name = "features-strangers" if stranger else "features-registered"
        return guess(self.features(name, lambda i: self.photos(stranger, i, UNSEEN)[:1], count))

    def inverted(self, guess: Initializer | None, stranger: bool, indices: Sequence[int]) -> Array:
        """Coordinates (n, k) that the default inversion finds."""

        def compute() -> Array:
            s, found = self.space, []
            basis = SpaceBasis.of(
                s.layout, s.mean, s.std, s.components, s.component_std, device=self.assets.model.device
            )
            for start in range(0, len(indices), 8):
                part = indices[start : start + 8]
                pixels = np.concatenate([self.photos(stranger, i, UNSEEN)[:1] for i in part])
                latents = self.assets.model.encode_images(pixels)
                first = None if guess is None else guess(self.assets.features(pixels))
                config = InvertConfig(bf16=self.assets.bf16)
                answers = invert(self.assets.model, basis, latents, self.assets.words, config, initial=first)
                found += [a.coordinates for a in answers]
            return np.stack(found)

        return self.assets.keep("inverted", [self.space.digest, stranger, list(indices), guess is not None], compute)


def resemblances(world: World, points: Array) -> Array:
    """(n, FIT): the space's own score of points with everybody registered."""
    metric = world.space.metric
    assert metric is not None
    return np.asarray(metric.unit(points) @ metric.unit(world.gallery).T, np.float32)


def evidence(world: World, white: Array, variance: Array) -> Array:
    """(n, FIT): log-likelihood ratio, in nats, that a photo guessed at ``white`` (n, k) shows a registered person
    rather than anybody, with the initializer's error variance (k,) and people distributed N(0, I).

    A guess is regressed towards the centre: given the guess a person is N(guess, variance), nobody in particular is
    N(0, 1).
    """
    v = np.clip(variance.astype(np.float64), 1e-6, 1.0)
    x = (world.gallery / world.space.component_std).astype(np.float64)
    g = white.astype(np.float64)
    near = -0.5 * ((x * x) @ (1 / v) + ((g * g) @ (1 / v))[:, None] - 2 * (g / v) @ x.T + np.log(v).sum())
    return np.asarray(near + 0.5 * (x * x).sum(1), np.float32)


def verdicts(world: World, best: NDArray[np.floating]) -> tuple[float, float]:
    """Shares of best scores that a search by weights calls likely, and no."""
    reach = best >= world.threshold
    alarm = false_alarm(world.rate, people.FIT)
    likely = reach & (alarm is not None and alarm <= LIKELY)
    return float(likely.mean()), float(1 - likely.mean())


def line(own: Array, others: Array, right: NDArray[np.bool_]) -> tuple[float, float, float]:
    """A line from the even rows: (line, share of the odd strangers that reach it, share of the odd registered people
    that reach it with the right person first)."""
    drawn = np.sort(others[::2])
    allowed = int(np.floor(FALSE_ALARMS * len(drawn)))
    at = float(drawn[len(drawn) - 1 - allowed])
    return at, float((others[1::2] > at).mean()), float(((own > at) & right)[1::2].mean())


def told(world: World, name: str, scores: Array, owners: Sequence[int], strangers: Array, lines: bool = True) -> str:
    """One row of the table: scores (n, FIT) of registered people's photos, and of strangers'."""
    who = np.asarray(owners)
    own = scores[np.arange(len(who)), who]
    rank = (scores > own[:, None]).sum(1) + 1
    best, others = scores.max(1), strangers.max(1)
    cells = [name, f"{len(who)} / {len(others)}", f"{(rank == 1).mean():.3f}", f"{(rank <= 10).mean():.3f}"]
    spread = [" – ".join(f"{q:.2f}" for q in np.quantile(v, (0.05, 0.5, 0.95))) for v in (own, others)]
    cells += spread
    if name.startswith("evidence"):
        cells += ["", ""]
    else:
        cells += [f"{verdicts(world, one)[0]:.3f}" for one in (best, others)]
    if lines:
        at, alarms, accepted = line(best, others, rank == 1)
        cells += [f"{at:.2f}", f"{alarms:.4f}", f"{accepted:.3f}"]
    else:
        cells += ["", "", ""]
    return "| " + " | ".join(cells) + " |"


HEADS: Final = (
    "a photo stands for", "people / strangers", "first", "in the first ten", "score of the right person, 5–50–95 %",
    "best score of a stranger", "likely", "strangers likely", "line", "strangers over it", "people over it and first",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--inverted", type=int, default=0, metavar="N", help="Also invert photos of N of either kind.")
    given = parser.parse_args()
    one_thread()
    world = World.load(given.home, given.cache)
    print(f"likely from {world.threshold:.3f}, false matches {world.rate:.2g} of pairs", flush=True)
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS))
    guess = world.initializer()
    known, unknown = (world.guessed(guess, kind, n) for kind, n in ((False, people.FIT), (True, STRANGERS)))
    spread = world.space.component_std
    variance = guess.variance
    for name, part in (("taught", range(TAUGHT)), ("not taught", range(TAUGHT, people.FIT))):
        for how in ("initializer's guess", "evidence of the guess"):
            if how.startswith("evidence"):
                a, b = (evidence(world, g.white.numpy(), variance) for g in (known, unknown))
            else:
                a, b = (resemblances(world, g.white.numpy() * spread) for g in (known, unknown))
            print(told(world, f"{how}, people {name}", a[part], part, b), flush=True)
    if given.inverted:
        chosen = range(TAUGHT, TAUGHT + given.inverted)
        for how, first in (("inversion from the guess", guess), ("inversion from the centre", None)):
            a, b = (
                resemblances(world, world.inverted(first, kind, part))
                for kind, part in ((False, chosen), (True, range(given.inverted)))
            )
            print(told(world, f"{how}, people not taught", a, chosen, b, lines=given.inverted >= 200), flush=True)


if __name__ == "__main__":
    main()
