"""Fingerprints of the mini world's people, for measuring verdicts: shipped LoRAs probed here, foreign ones stored.

``foreign.npz`` holds fingerprints (float16) of LoRAs that ``train_foreign`` made, by kind, with whom each draws
(``<kind>_of``); the adapters themselves would be too large to ship. ``python -m examples.miniworld.fingerprints pack``
takes them again from what is trained, ``… table`` prints the tables of docs/metric.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.identities import FIT
from examples.miniworld.unpack import DATA, load_loras
from w2w_registry.space.intervals import mean
from w2w_registry.space.verdict import Repeats, VerdictModel, learn

Array = NDArray[np.float64]
FOREIGN: Final = Path(__file__).parent / "foreign.npz"
PROMPT: Final = "photo of sks person"
LEARNED: Final = 112
"""How many of the retrained people a model learns from; the others, and all foreign ones, judge it."""


def shipped() -> tuple[Array, Array]:
    """Fingerprints of all shipped LoRAs (1056, 512) and of the retrained ones (224, 512)."""
    import torch

    from w2w_registry.diffusion.fingerprint import of_thetas
    from w2w_registry.diffusion.pipeline import load_model

    torch.set_num_threads(1)
    loras, model = load_loras(), load_model(DATA / "pipeline", device="cpu")
    first, again = (of_thetas(model, loras.layout, theta, PROMPT) for theta in (loras.theta, loras.retrained))
    return first.astype(np.float64), again.astype(np.float64)


def foreign() -> Iterator[tuple[str, Array, NDArray[np.int64]]]:
    """(kind, fingerprints (m, 512), whom they draw (m,))."""
    with np.load(FOREIGN) as file:
        for kind in file.files:
            if not kind.endswith("_of"):
                yield kind, file[kind].astype(np.float64), file[f"{kind}_of"]


def data() -> tuple[Array, dict[str, Array], dict[str, NDArray[np.int64]], Array]:
    """What ``benchmarks --only verdict`` reads when it is given no files: gallery, queries and whom they draw by
    kind, strangers."""
    first, again = shipped()
    kinds = list(foreign())
    asked = {"queries": again, "foreign": np.concatenate([prints for _, prints, _ in kinds])}
    of = {"queries": np.arange(len(again)), "foreign": np.concatenate([rows for _, _, rows in kinds])}
    return first[:FIT], asked, of, first[FIT:]


def table() -> str:
    """Found at the first place, and accepted at one false alarm in a hundred searches, by way of training."""
    first, again = shipped()
    gallery, strangers = first[:FIT], first[FIT:]
    model = learn(gallery, [Repeats("retrained", again[:LEARNED], np.arange(LEARNED))])
    plain = learn(gallery)
    lines = ["| trained | queries | recall@1 | called same | cosine: recall@1 | cosine: called same |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    rest = np.arange(LEARNED, len(again))
    for kind, prints, rows in [("as the registered, other photos", again[rest], rest), *foreign()]:
        cells = [str(mean(v)) for m in (model, plain) for v in _judged(m, prints, rows, gallery)]
        lines.append(f"| {kind} | {len(rows)} | " + " | ".join(cells) + " |")
    alarms = [(m.strangers.false_alarm(m.score(strangers, gallery).max(1), FIT) <= 0.01).mean() for m in (model, plain)]
    lines.append(f"| strangers ({len(strangers)}) | | | {alarms[0]:.3f} | | {alarms[1]:.3f} |")
    return "\n".join(lines)


def _judged(model: VerdictModel, queries: Array, rows: NDArray[np.int64], gallery: Array) -> tuple[Array, Array]:
    scores = model.score(queries, gallery)
    first = scores.argmax(1) == rows
    own = scores[np.arange(len(rows)), rows]
    same = first & (model.strangers.false_alarm(own, len(gallery)) <= 0.01)
    return first.astype(np.float64), same.astype(np.float64)


def pack() -> None:
    """Probe every foreign adapter that is trained, and store the fingerprints."""
    import torch

    from examples.miniworld import train_foreign
    from w2w_registry.diffusion.fingerprint import Adapter, fingerprints
    from w2w_registry.diffusion.pipeline import load_model

    torch.set_num_threads(1)
    model = load_model(DATA / "pipeline", device="cpu")
    arrays: dict[str, Any] = {}
    for kind in train_foreign.KINDS:
        found = [(i, s) for i, s in train_foreign.gather(kind, model.unet) if i in train_foreign.JUDGE]
        if found:
            prints = fingerprints(model, [Adapter(source=state) for _, state in found], PROMPT)
            arrays |= {kind: prints.astype(np.float16), f"{kind}_of": np.array([i for i, _ in found])}
    np.savez_compressed(FOREIGN, **arrays)
    print({kind: len(rows) for kind, rows in arrays.items() if not kind.endswith("_of")})


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "table"))
    if parser.parse_args().what == "pack":
        pack()
    else:
        print(table())


if __name__ == "__main__":
    main()
