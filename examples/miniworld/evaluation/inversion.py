"""Single-photo inversion against LoRAs trained on many photos and on one, and against finding the registered person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from examples.miniworld import identities as people
from examples.miniworld.evaluation.assets import UNSEEN, Array, Assets, Scope, array_key, identity_scores
from examples.miniworld.evaluation.report import Row
from examples.miniworld.train_loras import RECIPE
from w2w_registry.diffusion.generate import Shot
from w2w_registry.diffusion.invert import InvertConfig, invert
from w2w_registry.diffusion.train import train
from w2w_registry.space import intervals

COMPONENTS: Final = 999
CONFIG: Final = InvertConfig()
BATCH: Final = 8


def inverted(
    assets: Assets,
    indices: Sequence[int],
    config: InvertConfig = CONFIG,
    components: int = COMPONENTS,
    session: int = UNSEEN,
    guess: bool = True,
) -> Array:
    """Coordinates (n, k) of one unseen photo of each identity; later components stay at the centre."""
    config = replace(config, bf16=assets.bf16)

    def compute() -> Array:
        basis, found = assets.basis(components), []
        for start in range(0, len(indices), BATCH):
            part = indices[start : start + BATCH]
            pixels = np.stack([assets.photos(i, session)[0] for i in part])
            first = assets.guess.fitted_to(components)(assets.features(pixels)) if guess else None
            latents = assets.model.encode_images(pixels)
            answers = invert(assets.model, basis, latents, assets.words, config, initial=first)
            found += [a.coordinates for a in answers]
        points = np.zeros((len(indices), assets.space.k), np.float32)
        points[:, :components] = np.stack(found)
        return points

    key = [assets.space.digest, list(indices), config.to_json(), components, session, guess]
    return assets.keep("inverted", key, compute)


def dreambooth(assets: Assets, indices: Sequence[int], photos: int) -> Array:
    """θ (n, D) of LoRAs trained on the first ``photos`` photos of the unseen session, by the space's own recipe."""

    def compute() -> Array:
        theta0 = torch.from_numpy(assets.theta0)
        config, found = replace(RECIPE, seed=31, bf16=assets.bf16), []
        for start in range(0, len(indices), 16):
            part = indices[start : start + 16]
            pixels = np.concatenate([assets.photos(i, UNSEEN)[:photos] for i in part])
            latents = assets.model.encode_images(pixels, batch=64)
            latents = latents.reshape(len(part), photos, *latents.shape[1:])
            text = assets.words.text
            out = train(assets.model.unet, assets.model.scheduler, assets.layout, theta0, latents, text, config)
            found.append(out.theta.numpy())
        return np.concatenate(found)

    key = [assets.space.digest, list(indices), photos, RECIPE.__dict__]
    return assets.keep("dreambooth", key, compute)


def recall(assets: Assets, points: Array, owners: Sequence[int], at: int = 1) -> np.ndarray:
    """Whether each point's owner is among its ``at`` nearest registered identities (n,), by the space's metric."""
    metric = assets.space.metric
    assert metric is not None
    scores = metric.unit(points) @ metric.unit(assets.coordinates[: people.FIT]).T
    best = np.argsort(-scores, axis=1)[:, :at]
    return np.asarray((best == np.asarray(owners)[:, None]).any(1), float)


def copying(assets: Assets, thetas: Array, indices: Sequence[int], seeds: Sequence[int], name: str) -> np.ndarray:
    """How near pictures of each identity come to the one photo, against its other photos of that session (n,).

    The ratio of mean pixel distances: 1 when the one photo is like any other, less when it was learned by heart.
    """

    def compute() -> Array:
        pictures = assets.draw([Shot(theta, seed) for theta in thetas for seed in seeds]).astype(np.float32)
        pictures = pictures.reshape(len(thetas), len(seeds), *pictures.shape[1:])
        found = []
        for drawn, i in zip(pictures, indices, strict=True):
            photos = assets.photos(i, UNSEEN).astype(np.float32)
            gaps = np.sqrt(((drawn[:, None] - photos[None]) ** 2).mean((2, 3, 4))).mean(0)
            found.append(gaps[0] / gaps[1:].mean())
        return np.array(found, np.float32)

    return assets.keep(name, [array_key(thetas), list(indices), list(seeds)], compute).astype(np.float64)


def run(assets: Assets, scope: Scope) -> list[Row]:
    """The suite's table."""
    held = [people.FIT + i for i in range(scope.heldout)]
    seeds = list(range(1, scope.seeds + 1))
    real = assets.real(held)

    def scored(name: str, thetas: Array) -> np.ndarray:
        return identity_scores(assets.readings(thetas, seeds, name), real)

    ours = inverted(assets, held)
    trained = {10: dreambooth(assets, held, 10), 1: dreambooth(assets, held, 1)}
    many, one = scored("draw-many", trained[10]), scored("draw-one", trained[1])
    single = scored("draw-inverted", assets.space.reconstruct(ours))
    start = inverted(assets, held, replace(CONFIG, steps=0))
    guessed = scored("draw-guessed", assets.space.reconstruct(start))
    projected = scored("draw-projected", assets.space.reconstruct(assets.coordinates[held]))
    average = scored("draw-average", np.repeat(assets.space.mean[None], len(held), axis=0))
    real_to_real = identity_scores(assets.real(held, UNSEEN), real)
    rows = [
        Row("inversion", "identity score of real photos with each other", intervals.mean(real_to_real)),
        Row("inversion", "… of a LoRA trained on ten photos", intervals.mean(many)),
        Row("inversion", "… of that identity's shipped LoRA projected into the space", intervals.mean(projected)),
        Row("inversion", "… of single-photo inversion", intervals.mean(single)),
        Row("inversion", "… of its first guess alone", intervals.mean(guessed)),
        Row("inversion", "… of a LoRA trained on one photo", intervals.mean(one)),
        Row("inversion", "… of the average identity", intervals.mean(average)),
        Row("inversion", "single-photo inversion ÷ LoRA from ten photos", intervals.ratio(single, many), 0.93),
        Row("inversion", "single-photo inversion ÷ LoRA from one photo", intervals.ratio(single, one), 1.4),
    ]
    few, some = held[:12], seeds[:2]
    for label, thetas in (
        ("a LoRA trained on one photo", trained[1]),
        ("a LoRA trained on ten photos", trained[10]),
        ("single-photo inversion", assets.space.reconstruct(ours)),
    ):
        near = copying(assets, thetas[: len(few)], few, some, "copying")
        rows.append(
            Row("inversion", f"{label}: distance to the one photo ÷ to the person's others", intervals.mean(near))
        )
    known = list(range(scope.registered))
    points = inverted(assets, known)
    for at, target in ((1, 0.9), (10, None)):
        found = intervals.mean(recall(assets, points, known, at))
        what = f"inverted photo of a registered person finds that person, recall@{at} of {people.FIT}"
        rows.append(Row("inversion", what, found, target))
    torch.manual_seed(0)
    again = inverted(assets, held[:2]), invert_fresh(assets, held[:2])
    same = float(np.array_equal(*again))
    rows.append(Row("inversion", "two runs with one seed: share equal bit for bit", intervals.mean([same, same]), 1.0))
    return rows


def invert_fresh(assets: Assets, indices: Sequence[int]) -> Array:
    """As ``inverted``, never from the cache."""
    fresh = replace(assets, cache=assets.cache / f"fresh-{np.random.default_rng().integers(1 << 60)}")
    fresh.__dict__["guess"] = assets.guess
    fresh.__dict__["space"] = assets.space
    try:
        return inverted(fresh, indices)
    finally:
        for path in fresh.cache.glob("*"):
            path.unlink()
        fresh.cache.rmdir()
