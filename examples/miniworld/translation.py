"""Foreign adapters translated into a space that has never seen their people: do their coordinates draw the same person?

``python -m examples.miniworld.translation [--people N] [--kinds K…]`` translates LoRAs that ``train_foreign`` has made
of the first ``JUDGE`` people (or of ``LEARN``, with ``--tune``), draws each from its coordinates and by itself with the
same seeds, and prints by kind: identity score of both against the truth, their ratio, and the residual.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from examples.miniworld import train_foreign
from examples.miniworld.fingerprints import PROMPT
from examples.miniworld.identities import FIT, attributes
from examples.miniworld.readers import identity_score, load_readers
from examples.miniworld.sample import sample
from examples.miniworld.unpack import BASE_MODEL, DATA, load_loras
from w2w_registry.diffusion.adapters import Adapter, applied
from w2w_registry.diffusion.bank import LoraBank
from w2w_registry.diffusion.fingerprint import fingerprints, of_thetas
from w2w_registry.diffusion.invert import SpaceBasis
from w2w_registry.diffusion.pipeline import load_model
from w2w_registry.diffusion.translate import TranslateConfig, fit_ridge, translate
from w2w_registry.space.fit import fit_space
from w2w_registry.space.intervals import mean, ratio

Array = NDArray[np.float32]
SEEDS: Final = tuple(range(40, 44))
MEASURED: Final = 50
SEEN: Final = [i for i in range(FIT) if i not in (*train_foreign.LEARN[:MEASURED], *train_foreign.JUDGE[:MEASURED])]
"""Whom the space and the regression are fitted on: nobody whose foreign LoRAs are translated."""
BATCH: Final = 8


class Bench:
    """A space of ``SEEN`` people, and how well a point or an adapter draws whom it should."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model, self.loras = load_model(DATA / "pipeline", device="cpu"), load_loras()
        theta = self.loras.theta[SEEN]
        self.space = fit_space(theta, self.loras.layout, base_model=BASE_MODEL)
        s = self.space
        self.basis = SpaceBasis.of(s.layout, s.mean, s.std, s.components, s.component_std, device=self.model.device)
        points = s.project(theta)
        prints = of_thetas(self.model, s.layout, np.stack([s.reconstruct(p) for p in points]), PROMPT)
        self.ridge = fit_ridge(prints, points / s.component_std)
        self.words = self.model.encode_text(PROMPT)
        self.readers, self.truth = load_readers(DATA / "readers.safetensors"), attributes()

    def drawn_by(self, adapter: Adapter, index: int) -> float:
        """Identity score of its pictures, against the truth."""
        with torch.no_grad(), ExitStack() as stack:
            stack.enter_context(applied(self.model, [adapter], PROMPT, self.words))
            if adapter.text is not None:
                encoder = self.model.pipe.text_encoder
                said = torch.from_numpy(adapter.text[1])
                stack.enter_context(LoraBank(encoder, adapter.text[0]).apply(said))
            pictures = sample(self.model.pipe, [PROMPT] * len(SEEDS), SEEDS)
        readings = self.readers.read(pictures)
        return float(identity_score(readings, np.repeat(self.truth[index][None], len(SEEDS), 0)).mean())

    def run(self, adapters: list[Adapter], config: TranslateConfig) -> list[tuple[Array, float, float]]:
        found = []
        for start in range(0, len(adapters), BATCH):
            part = adapters[start : start + BATCH]
            guess = self.ridge(fingerprints(self.model, part, PROMPT))
            for one in translate(self.model, self.basis, part, self.words, PROMPT, guess, config):
                found.append((one.coordinates, one.residual, one.started))
        return found


def measure(bench: Bench, kind: str, people: range, count: int, config: TranslateConfig) -> tuple[str, Array, Array]:
    """One row of the table, and the scores of the translated and of the adapters themselves."""
    taken = [(i, a) for i, a in train_foreign.gather(kind, bench.model.pipe) if i in people][:count]
    if not taken:
        return f"| {kind} | 0 | | | | | | |", np.zeros(0), np.zeros(0)
    indices, adapters = [i for i, _ in taken], [a for _, a in taken]
    began = time.process_time()
    found = bench.run(adapters, config)
    cost = (time.process_time() - began) / len(found)
    space = bench.space
    own = np.array([bench.drawn_by(a, i) for i, a in taken])
    points = [Adapter(space.layout, space.reconstruct(c)) for c, _, _ in found]
    theirs = np.array([bench.drawn_by(a, i) for a, i in zip(points, indices, strict=True)])
    cells = [
        str(len(taken)),
        f"{own.mean():.3f}",
        f"{theirs.mean():.3f}",
        str(ratio(theirs, own)),
        str(mean([r for _, r, _ in found])),
        f"{np.mean([s for _, _, s in found]):.3f}",
        f"{cost:.1f}",
    ]
    return f"| {kind} | " + " | ".join(cells) + " |", theirs, own


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=25)
    parser.add_argument("--kinds", nargs="*", default=list(train_foreign.KINDS))
    parser.add_argument("--tune", action="store_true", help="on people who do not judge")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--prior", type=float)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--pictures", type=int)
    args = parser.parse_args()
    bench, config = Bench(), TranslateConfig()
    asked = {"steps": args.steps, "prior": args.prior, "lr": args.rate}
    given = {name: value for name, value in asked.items() if value is not None}
    config = replace(config, walk=replace(config.walk, **given), pictures=args.pictures or config.pictures)
    names = "trained, people, own score, translated, translated ÷ own, residual, at the start, CPU s"
    print("| " + names.replace(", ", " | ") + " |")
    print("| --- " * 8 + "|")
    people = (train_foreign.LEARN if args.tune else train_foreign.JUDGE)[:MEASURED]
    scores = []
    for kind in args.kinds:
        row, theirs, own = measure(bench, kind, people, args.people, config)
        scores.append((theirs, own))
        print(row, flush=True)
    theirs, own = (np.concatenate(part) for part in zip(*scores, strict=True))
    print(f"all: {ratio(theirs, own)}")


if __name__ == "__main__":
    main()
