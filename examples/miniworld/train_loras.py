"""Train the identities' LoRAs in shards of 32; every shard is one batch and one file.

``python -m examples.miniworld.train_loras pilot`` trains the first 224 identities from a random A, ``… init`` makes the
shared initialisation of what they learned, and ``… work`` trains everyone from there.  Run ``pilot`` and ``work`` in as
many one-thread processes as there are cores: each takes the next shard nobody has claimed until all are done.
``… status`` counts them, ``… release`` frees the claims of killed workers.  ``… try NAME`` trains 32 identities twice
with a recipe of ``RECIPES`` and measures how well the pairs find each other.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples.miniworld import identities as people
from examples.miniworld.pipeline import PROMPT, load_pipeline, tokenise
from examples.miniworld.train_unet import encode
from examples.miniworld.train_vae import BUILD
from w2w_registry.diffusion.train import TrainConfig, initial_theta, train
from w2w_registry.space.layout import Layout, TensorKey, layout_of

SHARD: Final = 32
ALPHA: Final = 4.0
INIT_SEED: Final = 7
INIT: Final = BUILD / "theta0.safetensors"
TARGETS: Final = ("to_q", "to_v")
# Chosen by measurement (see the README): A starts where it is useful and moves slowly, which keeps LoRAs comparable;
# the last steps towards the photo (t < 50), where every face needs the same, are left to the base model.
RECIPE: Final = TrainConfig(
    steps=130,
    samples=4,
    lr=1.3e-2,
    a_lr=0.1,
    schedule="linear",
    betas=(0.9, 0.99),
    timesteps=(50, 1000),
    antithetic=True,
    average_from=0.6,
)
# The pilot's A start at random, so they have to move.
PILOT: Final = replace(RECIPE, steps=160, lr=1e-2, a_lr=0.5, average_from=0.8)
PILOT_SHARDS: Final = 7
RECIPES: Final[dict[str, TrainConfig]] = {
    "chosen": RECIPE,
    "a-as-fast": replace(RECIPE, a_lr=1.0),
    "a-frozen": replace(RECIPE, a_lr=0.0),
    "all-timesteps": replace(RECIPE, timesteps=(0, 1000)),
    "slow": replace(RECIPE, lr=4e-3),
    "independent-noise": replace(RECIPE, antithetic=False),
    "shared-moment": replace(RECIPE, moment="tensor"),
    "two-samples": replace(RECIPE, steps=260, samples=2),
}


def world_layout(unet: torch.nn.Module) -> Layout:
    """Rank 1 on ``to_q`` and ``to_v`` of every attention."""
    shapes: dict[TensorKey, tuple[int, ...]] = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in TARGETS:
            shapes[name, "A"] = (1, module.in_features)
            shapes[name, "B"] = (module.out_features, 1)
    return layout_of(shapes, ALPHA)


def shared_init(folder: Path, layout: Layout) -> Tensor:
    """θ₀ (D,) from a pilot: per module the one A that says most of what the pilot's ΔW read, and B = 0.

    A random A reads the input in a direction that tells little, so every LoRA has to turn it first, each a little
    differently.  Starting where they all ended, A hardly moves any more, and what differs between two LoRAs is B.
    """
    _, theta = gather(folder, 0)
    start = torch.zeros(layout.dim)
    places = {tensor.key: part for tensor, part in layout.slices()}
    for module in layout.modules:
        a, b = theta[:, places[module, "A"]], theta[:, places[module, "B"]]
        # ΔWᵀΔW = |B|² A Aᵀ for rank one; its sum's first eigenvector loses least.
        _, vectors = torch.linalg.eigh((a * b.square().sum(1, keepdim=True)).T @ a)
        best = vectors[:, -1]
        best = best * torch.sign(best @ a.mean(0))
        start[places[module, "A"]] = best * a.norm(dim=1).mean()
    return start


class Base:
    """The shipped pipeline (UNet computed in bfloat16), its layout and the prompt's embedding (L, E)."""

    def __init__(self, folder: Path = BUILD / "pipeline") -> None:
        pipeline = load_pipeline(folder)
        self.pipeline, self.unet = pipeline, pipeline.unet.eval()
        self.vae, self.scheduler = pipeline.vae.eval(), pipeline.scheduler
        # Twice as fast, and the rounding is far below the noise of training; θ and the optimiser stay float32.
        self.unet.set_attn_processor(AttnProcessor())
        self.unet.to(torch.bfloat16)
        self.layout = world_layout(self.unet)
        self.theta0 = load_file(str(INIT))["theta0"] if INIT.exists() else initial_theta(self.layout, INIT_SEED)
        with torch.no_grad():
            self.text: Tensor = pipeline.text_encoder(tokenise(pipeline.tokenizer, [PROMPT]))[0][0]
        self.truth = people.attributes()

    def latents(self, index: int, take: int) -> Tensor:
        """(PHOTOS, 8, 8, 8) of one identity's photo set."""
        return encode(self.vae, torch.from_numpy(people.photo_set(index, self.truth[index], take)))

    def train(self, indices: list[int], take: int, config: TrainConfig) -> tuple[Tensor, Tensor]:
        """θ (len(indices), D) and losses (steps, len(indices))."""
        latents = torch.stack([self.latents(i, take) for i in indices])
        out = train(self.unet, self.scheduler, self.layout, self.theta0, latents, self.text, config)
        return out.theta, out.losses


def shards() -> list[tuple[str, int, list[int]]]:
    """(name, take, identities): the held-out and retrained ones come early, so that a cut-short run is usable."""
    everyone = list(range(people.FIT + people.HELDOUT))
    cut = [everyone[i : i + SHARD] for i in range(0, len(everyone), SHARD)]
    again = [everyone[i : i + SHARD] for i in range(0, people.RETRAINED, SHARD)]
    first = [(f"first-{part[0]:04d}", 0, part) for part in cut]
    second = [(f"again-{part[0]:04d}", 1, part) for part in again]
    mixed = [shard for pair in zip(first, second, strict=False) for shard in pair]
    return [*mixed, *first[len(second) :]]


def seed_of(take: int) -> int:
    """Noise and timesteps: one sequence for all first trainings, another for all retrained ones."""
    return 11 + take


def work(folder: Path, todo: list[tuple[str, int, list[int]]], recipe: TrainConfig) -> None:
    """Train shard after shard until none is left unclaimed."""
    base: Any = None
    for name, take, indices in todo:
        done, claim = folder / f"{name}.safetensors", folder / f"{name}.claim"
        if done.exists():
            continue
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        base = base or Base()
        began = time.time()
        theta, losses = base.train(indices, take, replace(recipe, seed=seed_of(take)))
        # Atomic: a shard is there and whole, or not there.
        temporary = folder / f".{name}.tmp"
        save_file({"theta": theta, "losses": losses, "indices": torch.tensor(indices)}, temporary)
        temporary.replace(done)
        claim.unlink()
        last = losses[-50:].mean().item()
        print(f"{name} loss {last:.4f} {(time.time() - began) / len(indices):.2f} s per LoRA", flush=True)


def gather(folder: Path, take: int) -> tuple[list[int], Tensor]:
    """All LoRAs of one take that are done: indices and θ (N, D), by index."""
    found: dict[int, Tensor] = {}
    for name, shard_take, _ in shards():
        path = folder / f"{name}.safetensors"
        if shard_take == take and path.exists():
            tensors = load_file(str(path))
            found |= dict(zip(tensors["indices"].tolist(), tensors["theta"], strict=True))
    order = sorted(found)
    return order, torch.stack([found[i] for i in order]) if order else torch.zeros(0, 0)


def scores(gallery: np.ndarray, query: np.ndarray, components: int | None, power: float) -> np.ndarray:
    """Cosines (Q, N) on ``components`` principal coordinates of standardised θ, each over its std to ``power``."""
    mean, std = gallery.mean(0), gallery.std(0)
    std = np.where(std > 1e-8, std, 1.0)
    z, q = (gallery - mean) / std, (query - mean) / std
    _, s, vt = np.linalg.svd(z, full_matrices=False)
    keep = min(components or len(s), len(s) - 1)
    weight = (s[:keep] / np.sqrt(len(z))) ** -power
    c, d = (z @ vt[:keep].T) * weight, (q @ vt[:keep].T) * weight
    c /= np.linalg.norm(c, axis=1, keepdims=True)
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    return np.asarray(d @ c.T)


def recall(score: np.ndarray, truth: np.ndarray) -> float:
    """Share of queries whose best match is the identity they belong to."""
    return float((score.argmax(1) == truth).mean())


def attempt(name: str, count: int) -> None:
    """Train ``count`` identities twice with one recipe; print recall and how far pairs stand out (in spreads)."""
    base, config, began = Base(), RECIPES[name], time.time()
    indices = list(range(count))
    takes = []
    for take in (0, 1):
        parts = [base.train(indices[i : i + SHARD], take, replace(config, seed=seed_of(take)))
                 for i in range(0, count, SHARD)]  # fmt: skip
        takes.append(torch.cat([theta for theta, _ in parts]))
    torch.save({"a": takes[0], "b": takes[1]}, BUILD / f"try-{name}.pt")
    a, b = takes[0].numpy(), takes[1].numpy()
    lines = []
    for components in (8, 16, 24, 31):
        for power in (0.0, 0.5, 1.0):
            s = scores(a, b, components, power)
            same, other = np.diag(s), s[~np.eye(len(s), dtype=bool)]
            apart = (same.mean() - other.mean()) / other.std()
            hit = recall(s, np.arange(len(s)))
            lines.append(
                f"k={components} p={power}: R@1 {hit:.2f} same {same.mean():.2f} min {same.min():.2f} d {apart:.2f}"
            )
    seconds = (time.time() - began) / (2 * count)
    last = parts[-1][1][-50:].mean().item()
    print(f"== {name}: {seconds:.2f} s per LoRA, loss {last:.4f}\n" + "\n".join(lines), flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=("pilot", "init", "work", "status", "release", "try"))
    parser.add_argument("name", nargs="?")
    parser.add_argument("--count", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = BUILD / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    if args.phase == "work":
        work(folder, shards(), RECIPE)
    elif args.phase == "pilot":
        (BUILD / "pilot").mkdir(exist_ok=True)
        work(BUILD / "pilot", [s for s in shards() if s[1] == 0][:PILOT_SHARDS], PILOT)
    elif args.phase == "try":
        attempt(args.name, args.count)
    elif args.phase == "init":
        save_file({"theta0": shared_init(BUILD / "pilot", Base().layout)}, INIT)
    elif args.phase == "release":
        for claim in folder.glob("*.claim"):
            claim.unlink()
    else:
        done = [name for name, _, _ in shards() if (folder / f"{name}.safetensors").exists()]
        claims = len(list(folder.glob("*.claim")))
        print(f"{len(done)} of {len(shards())} shards done, {claims} claimed")


if __name__ == "__main__":
    main()
