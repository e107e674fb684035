"""Inversion and training against straightforward versions of them: one thread, CPU seconds of the process."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.paper_inversion import paper_invert
from benchmarks.peft_training import peft_train
from examples.miniworld import identities as people
from examples.miniworld.evaluation.assets import UNSEEN, Array, Assets, Scope, identity_scores
from examples.miniworld.evaluation.inversion import COMPONENTS, CONFIG
from examples.miniworld.evaluation.report import Row, exact
from examples.miniworld.train_loras import RECIPE
from w2w_registry.diffusion.invert import invert
from w2w_registry.diffusion.train import train
from w2w_registry.space import intervals

BUDGETS = (0, 8, 12, 16, 20, 24, 28, 32, 40, 60)
LIKE_THE_PAPER = replace(CONFIG, lr=0.4, prior=0.003, emphasis=1.15)
"""The paper's procedure has next to no prior: it fits its photo more closely than the default here, which also wants to
be found among the registered.  Equal score is compared with a weak prior, long steps and, because those go further by
themselves, less emphasis (``invert --lr 0.4 --prior 0.003 --emphasis 1.15``)."""
TOGETHER = (16, 64)
"""Identities trained in one batch: as many as ``train`` takes by default, and more."""


def run(assets: Assets, scope: Scope) -> list[Row]:
    """Both comparisons and the export check."""
    return [*inversion(assets, scope), *training(assets), *export_equals(assets, scope)]


def inversion(assets: Assets, scope: Scope) -> list[Row]:
    """Seconds per photo to the identity score that the paper's procedure ends with."""
    held = [people.FIT + i for i in range(min(8, scope.heldout))]
    seeds = list(range(1, scope.seeds + 1))
    real = assets.real(held)
    paper, seconds = _paper(assets, held)
    reached = identity_scores(assets.readings(assets.space.reconstruct(paper), seeds, "paper"), real)
    rows = [
        Row("speed", "paper's procedure: seconds a photo", intervals.mean(seconds)),
        Row("speed", "paper's procedure: identity score", intervals.mean(reached)),
    ]
    for steps in sorted({*BUDGETS}):
        points, own = _ours(assets, held, steps)
        score = identity_scores(assets.readings(assets.space.reconstruct(points), seeds, f"ours-{steps}"), real)
        equal = bool(score.mean() >= reached.mean())
        how = "to its score" if equal else "whose score is not reached"
        rows.append(Row("speed", f"ours with {steps} steps: identity score", intervals.mean(score)))
        if not equal and steps < max(BUDGETS):
            continue
        rows += [
            Row("speed", f"ours with {steps} steps: seconds a photo", intervals.mean(own)),
            Row(
                "speed",
                f"inversion time ÷ the paper's procedure, {how}",
                intervals.ratio(own, seconds),
                0.2 if equal else None,
                above=False,
            ),
        ]
        break
    return rows


def _paper(assets: Assets, held: list[int]) -> tuple[Array, np.ndarray]:
    space = assets.space
    arrays = {
        "mean": space.mean,
        "std": space.std,
        "components": np.ascontiguousarray(space.components[:, :COMPONENTS]),
    }

    def compute() -> Array:
        found = []
        for i in held:
            latents = assets.model.encode_images(assets.photos(i, UNSEEN)[:1])
            began = time.process_time()
            point = paper_invert(assets.model, assets.layout, arrays, latents[0], assets.words, seed=i)
            found.append(np.concatenate([[time.process_time() - began], point]))
        return np.stack(found).astype(np.float32)

    found = assets.keep("paper", [space.digest, held, COMPONENTS], compute)
    return _full(found[:, 1:], space.k), found[:, 0].astype(np.float64)


def _ours(assets: Assets, held: list[int], steps: int) -> tuple[Array, np.ndarray]:
    space, basis = assets.space, assets.basis(COMPONENTS)
    config = replace(LIKE_THE_PAPER, steps=steps, bf16=assets.bf16)
    guess = assets.guess.fitted_to(COMPONENTS)

    def compute() -> Array:
        found = []
        for i in held:
            pixels = assets.photos(i, UNSEEN)[:1]
            latents = assets.model.encode_images(pixels)
            began = time.process_time()
            first = guess(assets.features(pixels))
            (answer,) = invert(assets.model, basis, latents, assets.words, config, initial=first)
            found.append(np.concatenate([[time.process_time() - began], answer.coordinates]))
        return np.stack(found).astype(np.float32)

    found = assets.keep("ours", [space.digest, held, config.to_json(), COMPONENTS], compute)
    return _full(found[:, 1:], space.k), found[:, 0].astype(np.float64)


def _full(points: Array, k: int) -> Array:
    full = np.zeros((len(points), k), np.float32)
    full[:, : points.shape[1]] = points
    return full


def training(assets: Assets) -> list[Row]:
    """Models an hour, both ways with the same steps and the same noisy photos a model and step, from a few steps' time.

    Once as the paper trains (one noisy photo a step) and once as the mini world's LoRAs were made.  PEFT gets float32
    or bfloat16, whichever is faster for it.
    """
    most = max(TOGETHER)
    latents = assets.model.encode_images(np.concatenate([assets.photos(i, 0) for i in range(most)]), batch=64)
    latents = latents.reshape(most, people.PHOTOS, *latents.shape[1:])
    precisions = (False, True) if assets.bf16 else (False,)
    rows: list[Row] = []
    for samples, how in ((1, "one noisy photo a step (the paper's)"), (RECIPE.samples, "the mini world's recipe")):
        batched: dict[int, list[float]] = {count: [] for count in TOGETHER}
        alone: dict[bool, list[float]] = {bf16: [] for bf16 in precisions}
        _batched(assets, latents[:2], samples, 2)
        _one_by_one(assets, latents[0], samples, 4, False)
        # Taken in turn, so that whatever else the machine does falls on all.
        for _ in range(5):
            for count in TOGETHER:
                batched[count].append(_batched(assets, latents[:count], samples, 4))
            for bf16 in precisions:
                alone[bf16].append(_one_by_one(assets, latents[0], samples, 16, bf16))
        hourly = 3600.0 / RECIPE.steps
        best = min(precisions, key=lambda bf16: float(np.median(alone[bf16])))
        kind = "bfloat16" if best else "float32"
        peft = hourly / float(np.median(alone[best]))
        rows.append(Row("speed", f"{how}: one-at-a-time PEFT training ({kind}), models an hour", exact(peft, 5)))
        for count in TOGETHER:
            ours = hourly / float(np.median(batched[count]))
            ratio = intervals.ratio(alone[best], batched[count])
            rows += [
                Row("speed", f"{how}: batched training of {count}, models an hour", exact(ours, 5)),
                Row("speed", f"{how}: batched training of {count} ÷ one-at-a-time PEFT", ratio, 4.0),
            ]
    return rows


def _batched(assets: Assets, latents: torch.Tensor, samples: int, steps: int) -> float:
    """CPU seconds a model and step."""
    config = replace(RECIPE, steps=steps, samples=samples, antithetic=samples > 1, bf16=assets.bf16)
    theta0 = torch.from_numpy(assets.theta0)
    model = assets.model
    began = time.process_time()
    train(model.unet, model.scheduler, assets.layout, theta0, latents, assets.words.text, config)
    return (time.process_time() - began) / (steps * len(latents))


def _one_by_one(assets: Assets, latents: torch.Tensor, samples: int, steps: int, bf16: bool) -> float:
    """CPU seconds a step of the usual PEFT script."""
    with assets.model.autocast(bf16):
        return peft_train(assets.model, latents, assets.words, steps=steps, samples=samples, alpha=4.0) / steps


def export_equals(assets: Assets, scope: Scope) -> list[Row]:
    """Largest difference between pictures drawn from θ and by stock diffusers with the exported LoRA."""
    from diffusers import StableDiffusionPipeline

    from w2w_registry.diffusion.generate import Recipe, Shot, draw
    from w2w_registry.lora import lora_files

    worst, indices = 0, [people.FIT + i for i in range(min(4, scope.heldout))]
    recipe = Recipe("photo of sks person", steps=20, guidance=2.0)
    source = Path(assets.model.source)
    with TemporaryDirectory() as folder:
        for i in indices:
            theta = assets.space.reconstruct(assets.coordinates[i])
            (ours,) = draw(assets.model, assets.layout, [Shot(theta, 3)], recipe)
            files = lora_files(Path(folder), assets.layout.unflatten(theta), assets.layout.alpha, fmt="diffusers")
            for path, content in files.items():
                path.write_bytes(content)
            stock = StableDiffusionPipeline.from_pretrained(source, safety_checker=None, torch_dtype=torch.float32)
            stock.set_progress_bar_config(disable=True)
            stock.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
            theirs = stock(
                recipe.prompt,
                num_inference_steps=20,
                guidance_scale=2.0,
                generator=torch.Generator().manual_seed(3),
                output_type="np",
            ).images[0]
            worst = max(worst, int(np.abs(ours.astype(int) - np.rint(theirs * 255).astype(int)).max()))
    what = "exported LoRA in stock diffusers: largest difference in 1/255"
    return [Row("speed", what, exact(worst, len(indices)), 2.0, above=False)]
