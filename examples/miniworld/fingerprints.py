"""Fingerprints of the mini world's people, for measuring verdicts: shipped LoRAs probed here, foreign ones stored.

``foreign.npz`` holds fingerprints of LoRAs that ``train_foreign`` made, by kind: 8 bits a value and one scale a row
(``<kind>``, ``<kind>_scale``), whom each draws (``<kind>_of``), and the place at which that person is found by weights
alone (``<kind>_place``, 1 is first); the adapters themselves would be too large to ship.

``python -m examples.miniworld.fingerprints pack`` takes them again from what is trained, ``… table`` prints who is
found and called *same*, by way of training, ``… repeats [--gallery NPZ]`` how few repeats are enough, ``… groups
[--gallery NPZ]`` who is found to be registered twice, ``… probes`` at which noise to ask.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.identities import FIT
from examples.miniworld.unpack import DATA, load_loras
from w2w_registry.space.intervals import share
from w2w_registry.space.layout import Layout
from w2w_registry.space.people import pairs_of_one
from w2w_registry.space.verdict import Repeats, VerdictModel, learn, presume

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
FOREIGN: Final = Path(__file__).parent / "foreign.npz"
PROMPT: Final = "photo of sks person"
LEARNED: Final = 112
"""A model learns from repeats of the people before this one; the others judge it."""
ALARMS: Final = 0.01
PRESUME: Final = -1
"""In place of a number of repeats: none, and the noise of training presumed."""
UNFINISHED: Final = ("short", "barely")
"""Kinds that were trained for a third, and for a twelfth, of the steps: the last draw hardly anybody yet."""
TEACHERS: Final = ("rank4-qkvo", "text-encoder")
"""Foreign kinds whose noise a model may learn, from people who judge nothing."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries of one way of training: fingerprints (m, 512), whom they draw (m,), their place by weights (m,)."""

    kind: str
    prints: Array
    of: Rows
    place: Rows

    def only(self, judged: bool) -> Asked:
        """Those of people who judge, or who are learned from."""
        keep = (self.of >= LEARNED) == judged
        return Asked(self.kind, self.prints[keep], self.of[keep], self.place[keep])


class World:
    """The registered (1000, 512), strangers (56, 512) outside every fit, and retrained LoRAs of the first 224."""

    def __init__(self) -> None:
        import torch

        from w2w_registry.diffusion.fingerprint import of_thetas
        from w2w_registry.diffusion.pipeline import load_model

        torch.set_num_threads(1)
        self.loras, model = load_loras(), load_model(DATA / "pipeline", device="cpu")
        first, again = (
            of_thetas(model, self.loras.layout, theta, PROMPT).astype(np.float64)
            for theta in (self.loras.theta, self.loras.retrained)
        )
        self.gallery, self.strangers, self.again = first[:FIT], first[FIT:], again

    @cached_property
    def retrained(self) -> Asked:
        rows = np.arange(len(self.again))
        weights = Weights(self.loras.layout, self.loras.theta[:FIT])
        return Asked("retrained", self.again, rows, weights.places(self.loras.layout, self.loras.retrained, rows))

    def repeats(self, count: int = LEARNED) -> Repeats:
        """Second trainings of the first ``count`` people."""
        return Repeats("retrained", self.again[:count], np.arange(count))


def foreign() -> Iterator[Asked]:
    """What is stored, one kind after the other."""
    with np.load(FOREIGN) as file:
        for kind in [name for name in file.files if f"{name}_of" in file.files]:
            prints = file[kind].astype(np.float64) * file[f"{kind}_scale"][:, None]
            yield Asked(kind, prints, file[f"{kind}_of"].astype(np.int64), file[f"{kind}_place"].astype(np.int64))


def by_kind() -> tuple[Array, dict[str, Array], dict[str, Rows], Array]:
    """Gallery, queries and whom they draw by way of training, strangers."""
    world = World()
    kinds = list(foreign())
    asked = {"queries": world.again} | {one.kind: one.prints for one in kinds}
    of = {"queries": np.arange(len(world.again))} | {one.kind: one.of for one in kinds}
    return world.gallery, asked, of, world.strangers


def data() -> tuple[Array, dict[str, Array], dict[str, Rows], Array]:
    """As ``by_kind``, all foreign ones that were trained to the end together: what ``benchmarks --only verdict`` reads
    when it is given no files."""
    gallery, asked, of, strangers = by_kind()
    kinds = [kind for kind in asked if kind not in ("queries", *UNFINISHED)]
    return (
        gallery,
        {"queries": asked["queries"], "foreign": np.concatenate([asked[kind] for kind in kinds])},
        {"queries": of["queries"], "foreign": np.concatenate([of[kind] for kind in kinds])},
        strangers,
    )


@dataclass(frozen=True, eq=False)
class Judged:
    """Of each query: found at the first place, and called *same* there."""

    first: NDArray[np.bool_]
    same: NDArray[np.bool_]


def judged(model: VerdictModel, asked: Asked, gallery: Array) -> Judged:
    scores = model.score(asked.prints, gallery)
    first = scores.argmax(1) == asked.of
    own = scores[np.arange(len(first)), asked.of]
    return Judged(first, first & (model.strangers.false_alarm(own, len(gallery)) <= ALARMS))


def alarms(model: VerdictModel, strangers: Array, gallery: Array) -> NDArray[np.bool_]:
    """Which strangers are called *same* as somebody."""
    return np.asarray(model.strangers.false_alarm(model.score(strangers, gallery).max(1), len(gallery)) <= ALARMS)


def table() -> str:
    """Found at the first place, and called *same* at one false alarm in a hundred searches, by way of training."""
    world, kinds = World(), list(foreign())
    teachers = [one.only(judged=False) for one in kinds if one.kind in TEACHERS]
    also = [Repeats(one.kind, one.prints, one.of) for one in teachers if len(one.of)]
    models = {
        "cosine": learn(world.gallery),
        f"{LEARNED} retrained": learn(world.gallery, [world.repeats()]),
        f"and {sum(len(one.of) for one in teachers)} foreign": learn(world.gallery, [world.repeats(), *also]),
    }
    names, last = list(models), list(models.values())[-1]
    highest = float(last.score(world.strangers, world.gallery).max())
    lines = [
        "| trained | recall@1, behaviour | recall@1, weights (ΔW) | above every stranger | "
        + " | ".join(f"same: {name}" for name in names)
        + " |",
        "| --- " * (4 + len(names)) + "|",
    ]
    for one in [world.retrained, *kinds]:
        asked = one.only(judged=True)
        if not len(asked.of):
            continue
        found = [judged(models[name], asked, world.gallery) for name in names]
        own = last.score(asked.prints, world.gallery)[np.arange(len(asked.of)), asked.of]
        above = share(found[-1].first & (own > highest))
        cells = [share(found[-1].first), share(asked.place == 1), above, *(share(f.same) for f in found)]
        lines.append(f"| {asked.kind} | " + " | ".join(map(str, cells)) + " |")
    called = [share(alarms(models[name], world.strangers, world.gallery)) for name in names]
    lines.append("| strangers | | | | " + " | ".join(map(str, called)) + " |")
    return "\n".join(lines)


class Weights:
    """ΔW of the registered, all of one layout, to be compared with LoRAs of any other: inner products of ΔW by their
    factors, ⟨B A, B' A'⟩ = tr((Bᵀ B')(A' Aᵀ)), never the dense matrices."""

    def __init__(self, layout: Layout, thetas: NDArray[np.float32]) -> None:
        self.layout, self.thetas = layout, thetas
        self.norms = np.sqrt([float(self.inner(layout, theta[None])[n, 0]) for n, theta in enumerate(thetas)])

    def inner(self, layout: Layout, thetas: NDArray[np.float32]) -> Array:
        """(n registered, m) inner products; modules that only one of two has count for nothing."""
        found = np.zeros((len(self.thetas), len(thetas)))
        own, other = (self._parts(*pair) for pair in ((self.layout, self.thetas), (layout, thetas)))
        for module in set(self.layout.modules) & set(layout.modules):
            (a, b), (c, d) = own[module], other[module]
            left = np.einsum("nor,mos->nmrs", b, d, optimize=True)
            right = np.einsum("nri,msi->nmrs", a, c, optimize=True)
            found += self.layout.scale(module) * layout.scale(module) * (left * right).sum((2, 3))
        return found

    def places(self, layout: Layout, thetas: NDArray[np.float32], of: Rows) -> Rows:
        """At which place by cosine of ΔW each query finds whom it draws (m,)."""
        cosines = np.concatenate([
            self.inner(layout, part) / self.norms[:, None] for part in np.array_split(thetas, -(-len(thetas) // 16))
        ], axis=1)  # fmt: skip
        return np.asarray(1 + (cosines > cosines[of, np.arange(len(of))]).sum(0))

    @staticmethod
    def _parts(layout: Layout, thetas: NDArray[np.float32]) -> dict[str, tuple[Array, Array]]:
        at = {t.key: (part, t.shape) for t, part in layout.slices()}
        return {
            module: tuple(  # type: ignore[misc]
                thetas[:, at[module, f][0]].reshape(len(thetas), *at[module, f][1]).astype(np.float64) for f in "AB"
            )
            for module in layout.modules
        }


def repeats(path: Path | None) -> str:
    """How few second trainings are enough: recall and *same* on people they were not of."""
    if path is None:
        world = World()
        gallery, strangers, counts = world.gallery, world.strangers, (16, 32, 64, LEARNED)
        teach, ask = world.retrained.only(judged=False), [world.retrained.only(judged=True)]
        ask += [one for kind in foreign() if len((one := kind.only(judged=True)).of)]
    else:
        with np.load(path) as file:
            gallery, strangers = file["gallery"].astype(np.float64), file["strangers"].astype(np.float64)
            both = [Asked(kind, file[kind].astype(np.float64), file[f"{kind}_of"], file[f"{kind}_of"] * 0)
                    for kind in ("queries", "foreign")]  # fmt: skip
        counts = (16, 32, 64, 128, 256)
        turn = np.random.default_rng(0).permutation(len(both[0].of))[: counts[-1]]
        taught = both[0].of[turn]
        teach = Asked("queries", both[0].prints[turn], taught, taught * 0)
        ask = [_without(one, taught) for one in both]
    others = next((one for one in ask if one.kind in ("foreign", "rank4-qkvo")), None)
    foreign_too = None
    if path is not None and others is not None:
        # Half of the foreign queries' people teach, and the other half judge.
        turn = np.random.default_rng(1).permutation(others.of)[: len(others.of) // 2]
        foreign_too = _only(others, turn)
        ask = [_without(one, turn) for one in ask]
    elif others is not None:
        foreign_too = next(one for one in foreign() if one.kind == others.kind).only(judged=False)
    lines = ["| repeats | " + " | ".join(f"{one.kind}: recall@1 | same" for one in ask) + " | strangers called same |",
             "| --- " * (2 + 2 * len(ask)) + "|"]  # fmt: skip
    wanted = [(PRESUME, 0), *((count, 0) for count in (0, *counts))]
    if foreign_too is not None:
        wanted += [(counts[-1], also) for also in (16, 24, 32) if also <= len(foreign_too.of)]
    for count, also in wanted:
        given = [Repeats("retrained", teach.prints[:count], teach.of[:count])] if count > 0 else []
        if also and foreign_too is not None:
            given.append(Repeats("foreign", foreign_too.prints[:also], foreign_too.of[:also]))
        model = learn(gallery, given)
        if count == PRESUME:
            model = presume(model, gallery, np.arange(len(gallery)))
        found = [judged(model, one, gallery) for one in ask]
        cells = [str(share(values)) for f in found for values in (f.first, f.same)]
        cells.append(str(share(alarms(model, strangers, gallery))))
        none = {PRESUME: "none: presumed", 0: "none: cosine"}
        name = none[count] if count in none else f"{count} and {also} foreign" if also else str(count)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def twice(path: Path | None) -> str:
    """Who is found to be registered twice when nobody says so, and how many pairs of two people are taken for one."""
    if path is None:
        world = World()
        gallery, kinds = world.gallery, [world.retrained, *foreign()]
    else:
        with np.load(path) as file:
            turn = np.random.default_rng(7).permutation(len(file["gallery"]))[:4000]
            own = np.concatenate([turn, np.setdiff1d(file["queries_of"], turn)])
            place = {int(row): n for n, row in enumerate(own)}
            gallery, of = file["gallery"][own].astype(np.float64), np.array([place[int(r)] for r in file["queries_of"]])
            kinds = [Asked("retrained", file["queries"].astype(np.float64), of, of * 0)]
    lines = [
        "| registered again | people | twice | found | pairs of two people | said to be expected |",
        "| --- " * 6 + "|",
    ]
    cases = [(kinds[0], 0), *((kind, count) for kind in kinds for count in (12, 60, 200) if count <= len(kind.of))]
    for kind, count in cases:
        turn = np.random.default_rng(0).permutation(len(kind.of))[:count]
        pairs = pairs_of_one(np.concatenate([gallery, kind.prints[turn]]), np.arange(len(gallery) + count))
        right = sum(p.j >= len(gallery) and kind.of[turn[p.j - len(gallery)]] == p.i for p in pairs)
        said = max((p.strangers for p in pairs), default=0.0)
        lines.append(f"| {kind.kind} | {len(gallery)} | {count} | {right} | {len(pairs) - right} | {said:.1f} |")
    return "\n".join(lines)


def _only(asked: Asked, people: Sequence[int] | Rows) -> Asked:
    keep = np.isin(asked.of, people)
    return Asked(asked.kind, asked.prints[keep], asked.of[keep], asked.place[keep])


def _without(asked: Asked, people: Sequence[int] | Rows) -> Asked:
    keep = ~np.isin(asked.of, people)
    return Asked(asked.kind, asked.prints[keep], asked.of[keep], asked.place[keep])


def probes() -> str:
    """At which noise to ask, seen on foreign LoRAs of ``LEARN`` people by a model that learned from repeats of others.
    Needs what ``train_foreign`` has trained."""
    import torch

    from examples.miniworld import train_foreign
    from w2w_registry.diffusion.adapters import Adapter, alike
    from w2w_registry.diffusion.fingerprint import ONE_PROBE, QUESTIONS, WIDTH, Probe
    from w2w_registry.diffusion.pipeline import load_model

    torch.set_num_threads(1)
    model, loras = load_model(DATA / "pipeline", device="cpu"), load_loras()
    taken = [
        pair for kind in train_foreign.WIDELY for pair in train_foreign.gather(kind, model.pipe) if pair[0] < LEARNED
    ]
    of = np.array([i for i, _ in taken])
    adapters = [Adapter(loras.layout, theta) for theta in (*loras.theta, *loras.retrained)] + [a for _, a in taken]
    ((_, seed),) = QUESTIONS[ONE_PROBE]
    lines = ["| noise | foreign: recall@1 | above every stranger | called same |", "| --- " * 4 + "|"]
    for noise in (0.98, 0.95, 0.93, 0.9, 0.87, 0.85, 0.8):
        probe, prints = Probe(model, PROMPT, [(noise, seed)], orthogonal=False), np.zeros((len(adapters), WIDTH))
        for numbers in alike(model, adapters, 32):
            prints[numbers] = probe([adapters[n] for n in numbers])
        everybody = len(loras.theta)
        gallery, strangers, again = (
            prints[:FIT],
            prints[FIT:everybody],
            prints[everybody : everybody + len(loras.retrained)],
        )
        learned = learn(gallery, [Repeats("retrained", again[LEARNED:], np.arange(LEARNED, len(again)))])
        asked = Asked("foreign", prints[everybody + len(again) :], of, of * 0)
        found = judged(learned, asked, gallery)
        own = learned.score(asked.prints, gallery)[np.arange(len(of)), of]
        above = found.first & (own > learned.score(strangers, gallery).max())
        lines.append(f"| {noise} | {share(found.first)} | {share(above)} | {share(found.same)} |")
    return "\n".join(lines)


def pack() -> None:
    """Probe every foreign adapter that is trained, and store the fingerprints."""
    import torch

    from examples.miniworld import train_foreign
    from w2w_registry.diffusion.fingerprint import fingerprints
    from w2w_registry.diffusion.pipeline import load_model

    torch.set_num_threads(1)
    model, loras = load_model(DATA / "pipeline", device="cpu"), load_loras()
    weights = Weights(loras.layout, loras.theta[:FIT])
    arrays: dict[str, Any] = {}
    for kind in train_foreign.KINDS:
        found = list(train_foreign.gather(kind, model.pipe))
        if not found:
            continue
        of, adapters = np.array([i for i, _ in found]), [adapter for _, adapter in found]
        prints = fingerprints(model, adapters, PROMPT)
        scale = np.abs(prints).max(1) / 127
        # A DoRA's and a text encoder's part are compared by their ΔW of the UNet's factors.
        thetas = np.stack([adapter.theta for adapter in adapters if adapter.theta is not None])
        assert adapters[0].layout is not None
        arrays |= {
            kind: np.rint(prints / scale[:, None]).astype(np.int8),
            f"{kind}_scale": scale.astype(np.float32),
            f"{kind}_of": of.astype(np.int16),
            f"{kind}_place": weights.places(adapters[0].layout, thetas, of).astype(np.int16),
        }
    np.savez_compressed(FOREIGN, **arrays)
    print({kind: len(rows) for kind, rows in arrays.items() if kind in train_foreign.KINDS})


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "table", "repeats", "groups", "probes"))
    parser.add_argument("--gallery", type=Path, help="measure repeats or groups on this file instead of the mini world")
    args = parser.parse_args()
    if args.what == "pack":
        pack()
    else:
        of_files = {"repeats": repeats, "groups": twice}
        print(
            of_files[args.what](args.gallery)
            if args.what in of_files
            else {"table": table, "probes": probes}[args.what]()
        )


if __name__ == "__main__":
    main()
