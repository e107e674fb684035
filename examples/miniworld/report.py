"""How good the mini world is: readers, obedience of the base model, LoRAs, recall and probes; and the contact sheets.

``python -m examples.miniworld.report [readers] [base] [loras] [space] [sheets]`` prints tables (all without names).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from examples.miniworld import identities as people
from examples.miniworld import unpack as store
from examples.miniworld.pipeline import PROMPT, load_pipeline
from examples.miniworld.readers import Readers, identity_score, load_readers
from examples.miniworld.render import render
from examples.miniworld.sample import Photos, sample, sheet
from examples.miniworld.world import ATTRIBUTES, BINARY, CONTINUOUS, Array, sample_attributes, sample_nuisances
from w2w_registry.diffusion.bank import LoraBank

CUT: Final = len(CONTINUOUS)
STRENGTH: Final = 1.5
PICTURES: Final = Path(__file__).parent / "pictures"
WORDS: Final = (
    "photo of person",
    "photo of person with beard",
    "photo of person with glasses, orange hair",
    "photo of person with hat, pale skin",
    "photo of person with dark skin, blue hair, long hair",
    "photo of person with earrings, smile, big eyes",
)


def r2(values: Array, truth: Array) -> float:
    """Share of variance explained."""
    return float(1.0 - np.square(values - truth).mean() / np.square(truth - truth.mean()).mean())


def auroc(score: NDArray[Any], truth: NDArray[Any]) -> float:
    """Chance that a yes scores above a no."""
    yes, no = score[truth > 0.5], score[truth <= 0.5]
    above = (yes[:, None] > no[None]).mean() + 0.5 * (yes[:, None] == no[None]).mean()
    return float(above)


def table(title: str, columns: dict[str, dict[str, float]]) -> None:
    """Print a Markdown table: one row per attribute, one column per measurement."""
    print(f"\n{title}\n\n| attribute | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for name in ATTRIBUTES:
        print(f"| {name} | " + " | ".join(f"{column[name]:.3f}" for column in columns.values()) + " |")
    for label, names in (("mean, continuous", ATTRIBUTES[:CUT]), ("mean, yes/no", ATTRIBUTES[CUT:])):
        means = (np.mean([column[n] for n in names]) for column in columns.values())
        print(f"| **{label}** | " + " | ".join(f"{m:.3f}" for m in means) + " |")


def agreement(readings: Array, truth: Array) -> dict[str, float]:
    """Per attribute: R² of continuous ones, share right of yes/no ones; both (N, attributes)."""
    found = {name: r2(readings[:, i], truth[:, i]) for i, name in enumerate(ATTRIBUTES[:CUT])}
    right = (readings[:, CUT:] > 0.5) == (truth[:, CUT:] > 0.5)
    return found | dict(zip(ATTRIBUTES[CUT:], right.mean(axis=0).tolist(), strict=True))


class World:
    """Everything shipped, opened once."""

    def __init__(self, data: Path) -> None:
        store.verify(data)
        self.readers: Readers = load_readers(data / "readers.safetensors")
        self.pipeline = load_pipeline(data / "pipeline")
        self.loras = store.load_loras(data)
        layout = self.loras.layout
        self.bank = LoraBank(self.pipeline.unet, layout)
        self.strong = LoraBank(self.pipeline.unet, replace(layout, alpha=STRENGTH * layout.alpha))
        self.truth = people.attributes()

    def through_vae(self, photos: Photos) -> Photos:
        """Encoded and decoded again."""
        x = torch.from_numpy(photos).float().permute(0, 3, 1, 2) / 127.5 - 1.0
        with torch.no_grad():
            y = torch.cat([self.pipeline.vae(part).sample for part in x.split(128)])
        return ((y.permute(0, 2, 3, 1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()

    def draw(self, theta: Array, seeds: int, strong: bool = False) -> Photos:
        """(N·seeds, 32, 32, 3): LoRA i from seeds 0 … seeds - 1, together."""
        rows = torch.from_numpy(theta).repeat_interleave(seeds, dim=0)
        bank = self.strong if strong else self.bank
        return sample(self.pipeline, [PROMPT] * len(rows), list(range(seeds)) * len(theta), bank, rows)


def report_readers(world: World) -> None:
    """On photos of 2,000 people nobody trained on, as rendered and through the autoencoder."""
    truth = sample_attributes(2000, 4001)
    photos = render(truth, sample_nuisances(2000, (4001, 7)))
    again = world.through_vae(photos)
    columns = {
        "renders": agreement(world.readers.read(photos), truth),
        "through the autoencoder": agreement(world.readers.read(again), truth),
    }
    table("Readers: R² of continuous attributes, accuracy of yes/no ones", columns)
    error = np.square((again.astype(np.float32) - photos) / 255.0).mean(axis=(1, 2, 3))
    print(f"\nautoencoder: {np.mean(-10 * np.log10(error)):.1f} dB PSNR")


def report_base(world: World, seeds: int = 64) -> None:
    """One word at a time: is what was asked for there, and what does it read without the word?"""
    print("\nObedience of the base model: reading with the word, and with the same seeds without it\n")
    print("| word | asked for | present | without the word |\n| --- | --- | --- | --- |")
    plain = world.readers.read(sample(world.pipeline, ["photo of person"] * seeds, list(range(seeds))))
    for position, continuous in enumerate(CONTINUOUS):
        parts = len(continuous.words)
        for part, word in enumerate(continuous.words):
            if not word:
                continue
            photos = sample(world.pipeline, [f"photo of person with {word}"] * seeds, list(range(seeds)))
            low, high = part / parts, (part + 1) / parts
            # Half a part of tolerance: readings are not exact at the edge of a range.
            slack = 0.25 / parts
            shares = [
                ((r[:, position] >= low - slack) & (r[:, position] <= high + slack)).mean()
                for r in (world.readers.read(photos), plain)
            ]
            print(f"| {word} | {low:.2f}–{high:.2f} | {shares[0]:.2f} | {shares[1]:.2f} |")
    for position, binary in enumerate(BINARY, start=CUT):
        photos = sample(world.pipeline, [f"photo of person with {binary.word}"] * seeds, list(range(seeds)))
        shares = [(r[:, position] > 0.5).mean() for r in (world.readers.read(photos), plain)]
        print(f"| {binary.word} | yes | {shares[0]:.2f} | {shares[1]:.2f} |")


def report_loras(world: World, count: int = 48, seeds: int = 4) -> None:
    """Pictures drawn with LoRAs, read and compared with the truth."""
    fit = np.arange(count)
    held = np.arange(people.FIT, people.FIT + min(count, people.HELDOUT))
    columns = {}
    cases = (("fit", fit, False), ("held out", held, False), (f"held out, strength {STRENGTH}", held, True))
    for label, rows, strong in cases:
        readings = world.readers.read(world.draw(world.loras.theta[rows], seeds, strong))
        truth = world.truth[rows].repeat(seeds, axis=0)
        columns[f"{label}, every picture"] = agreement(readings, truth)
        mean = readings.reshape(len(rows), seeds, -1).mean(axis=1)
        columns[f"{label}, mean of {seeds} seeds"] = agreement(mean, world.truth[rows])
        photos = [world.readers.read(people.photo_set(i, world.truth[i])).mean(axis=0) for i in rows]
        each = np.stack(photos).repeat(seeds, axis=0)
        score = identity_score(readings, each)
        strangers = identity_score(readings, np.roll(each, seeds, axis=0))
        print(f"\n{label}: identity score, picture against own photos {score.mean():.3f} (spread {score.std():.3f}), "
              f"against a stranger's {strangers.mean():.3f}")  # fmt: skip
    table(f"Pictures drawn with LoRAs ({count} identities, {seeds} seeds)", columns)


def standardised(theta: Array, mean: Array, std: Array) -> Array:
    return (theta - mean) / std


def report_space(world: World) -> None:
    """Recall of the retrained among all, by metric and components, and linear probes on held-out identities."""
    fit, again = world.loras.theta[: people.FIT], world.loras.retrained
    held = world.loras.theta[people.FIT :]
    mean, std = fit.mean(axis=0), fit.std(axis=0)
    std = np.where(std > 1e-8, std, 1.0).astype(np.float32)
    z, q, h = (standardised(t, mean, std) for t in (fit, again, held))
    own = np.arange(len(again))

    def recalls(gallery: Array, query: Array) -> tuple[float, float]:
        g = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
        score = (query / np.linalg.norm(query, axis=1, keepdims=True)) @ g.T
        better = (score > score[own, own][:, None]).sum(axis=1)
        return float((better < 1).mean()), float((better < 10).mean())

    _, s, vt = np.linalg.svd(z, full_matrices=False)
    spread = (s / np.sqrt(len(z))).astype(np.float32)
    c, d, e = z @ vt.T, q @ vt.T, h @ vt.T
    print(f"\nRecall of {len(again)} retrained LoRAs among {len(fit)}\n\n| metric | recall@1 | recall@10 |")
    print("| --- | --- | --- |")
    print("| cosine, raw θ | {:.3f} | {:.3f} |".format(*recalls(fit, again)))
    print("| cosine, θ − θ₀ | {:.3f} | {:.3f} |".format(*recalls(fit - world.loras.theta0, again - world.loras.theta0)))
    print("| cosine, standardised θ | {:.3f} | {:.3f} |".format(*recalls(z, q)))
    for keep in (32, 64, 128, 256, 999):
        for power, name in ((0.0, "cosine"), (0.5, "half-whitened"), (1.0, "whitened")):
            weight = spread[:keep] ** -power
            found = recalls(c[:, :keep] * weight, d[:, :keep] * weight)
            print("| {}, {} components | {:.3f} | {:.3f} |".format(name, keep, *found))
    explained = np.cumsum(s**2) / np.sum(s**2)
    print("\nexplained variance:", {k: round(float(explained[k - 1]), 3) for k in (8, 32, 64, 128, 256, 512)})
    columns = {}
    for keep in (32, 128, 512, 999):
        values = probe(c[:, :keep], world.truth[: people.FIT], e[:, :keep])
        truth = world.truth[people.FIT :]
        found = {name: r2(values[:, i], truth[:, i]) for i, name in enumerate(ATTRIBUTES[:CUT])}
        found |= {name: auroc(values[:, i], truth[:, i]) for i, name in enumerate(ATTRIBUTES) if i >= CUT}
        columns[f"{keep} components"] = found
    table("Linear probes on held-out identities: R² of continuous attributes, AUROC of yes/no ones", columns)


def probe(coordinates: Array, truth: Array, unseen: Array, ridge: float = 1.0) -> Array:
    """Ridge regression of attributes on coordinates (N, k), penalty N·ridge; (M, attributes) of ``unseen`` (M, k)."""
    mean = truth.mean(axis=0)
    penalty = ridge * len(coordinates) * np.eye(coordinates.shape[1], dtype=np.float32)
    weights = np.linalg.solve(coordinates.T @ coordinates + penalty, coordinates.T @ (truth - mean))
    found: Array = unseen @ weights + mean
    return found


def make_sheets(world: World) -> None:
    """The pictures of the README."""
    PICTURES.mkdir(exist_ok=True)
    texts = [text for text in WORDS for _ in range(12)]
    photos = sample(world.pipeline, texts, list(range(12)) * len(WORDS))
    sheet(list(photos.reshape(len(WORDS), 12, *photos.shape[1:])), PICTURES / "base.png")
    rows = []
    for index in [0, 1, 2, 3, 4, *range(people.FIT, people.FIT + 3)]:
        true = people.photo_set(index, world.truth[index])[:4]
        blank, theta = np.full_like(true[:1], 255), world.loras.theta[index][None]
        rows.append(np.concatenate([true, blank, world.draw(theta, 5), blank, world.draw(theta, 5, strong=True)]))
    sheet(rows, PICTURES / "loras.png")
    truth = sample_attributes(24, 77)
    shown = render(truth, sample_nuisances(24, (77, 7)))
    again = world.through_vae(shown)
    sheet([shown[:12], again[:12], shown[12:], again[12:]], PICTURES / "autoencoder.png")


def main() -> None:
    """See the module's docstring."""
    parts = {
        "readers": report_readers,
        "base": report_base,
        "loras": report_loras,
        "space": report_space,
        "sheets": make_sheets,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=(*parts, []), help="what to report")
    parser.add_argument("--data", type=Path, default=store.DATA)
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = World(args.data)
    for name in args.parts or list(parts):
        parts[name](world)


if __name__ == "__main__":
    main()
