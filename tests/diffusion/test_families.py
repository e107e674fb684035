"""Flow-matching transformers: asked, trained, drawn and fingerprinted as the stock pipelines do it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.diffusion import tiny, tiny_flow
from w2w_registry.diffusion.adapters import read_adapter
from w2w_registry.diffusion.families import flux
from w2w_registry.diffusion.fingerprint import fingerprints, of_thetas
from w2w_registry.diffusion.generate import Recipe, Shot, draw
from w2w_registry.diffusion.initializer import features
from w2w_registry.diffusion.pipeline import DiffusionModel, load_model
from w2w_registry.diffusion.train import TrainConfig, initial_theta, train
from w2w_registry.errors import UsageError
from w2w_registry.lora import write_lora
from w2w_registry.services.synthesis.training import own_layout

PROMPT = "photo of sks person"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("flows")

    @cache
    def model(kind: str) -> DiffusionModel:
        return load_model(tiny_flow.build(kind, root), device="cpu")

    return model


def test_tokens_are_packed_as_diffusers_packs_them(opened: Any) -> None:
    pipe = opened("flux").pipe
    latents = torch.randn(2, 4, 8, 6)
    packed = pipe._pack_latents(latents, 2, 4, 8, 6)
    assert torch.equal(flux.pack(latents), packed)
    assert torch.equal(flux.unpack(packed, 8, 6), latents)
    ids = pipe._prepare_latent_image_ids(2, 4, 3, torch.device("cpu"), torch.float32)
    assert torch.equal(flux.places(8, 6, latents), ids)


@pytest.mark.parametrize("kind", tiny_flow.KINDS)
def test_timesteps_are_shifted_as_the_scheduler_shifts_them(opened: Any, kind: str) -> None:
    model = opened(kind)
    scheduler = model.pipe.scheduler
    more: dict[str, Any] = {}
    if kind != "sd3":
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = scheduler.config
        _, height, width = model.latent_shape
        more["mu"] = calculate_shift(
            height * width // 4,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
    told = np.linspace(1.0, 1 / 1000, 1000)
    scheduler.set_timesteps(sigmas=told.tolist(), **more)
    own = model.scheduler.sigma(torch.arange(999, -1, -1))
    assert torch.allclose(own, scheduler.sigmas[:-1].float(), atol=2e-3)


@pytest.mark.parametrize("kind", tiny_flow.KINDS)
def test_a_lora_trained_here_changes_a_stock_pipeline_alike(opened: Any, kind: str, tmp_path: Path) -> None:
    model: DiffusionModel = opened(kind)
    layout = own_layout(model, 2, 4.0)
    assert all(("attn" in name) for name in layout.modules)
    words = model.encode_text(PROMPT)
    latents = model.encode_images(np.random.default_rng(1).integers(0, 256, (2, *(model.image_size,) * 2, 3), np.uint8))
    config = TrainConfig(steps=12, samples=2, lr=0.05, seed=3)
    start, text = initial_theta(layout, 0), words.text
    with model.conditioned(words):
        both, alone = latents[:, None], latents[:1, None]
        found = train(model.unet, model.scheduler, layout, start, both, text, config)
        again = train(model.unet, model.scheduler, layout, start, alone, text, config, checkpointing=True)
    assert found.theta.shape == (2, layout.dim)
    assert torch.allclose(found.theta[0], again.theta[0], atol=1e-3), "a neighbour changes nothing"
    assert float((found.theta[0] - found.theta[1]).abs().max()) > 1e-3
    theta = found.theta[0].numpy()
    shots = [Shot(theta, 5), Shot(None, 5)]
    recipe = Recipe(PROMPT, steps=3)
    (ours,), (bare,) = (draw(model, layout, [shot], recipe) for shot in shots)
    assert ours.shape == (model.image_size, model.image_size, 3)
    write_lora(tmp_path / "lora", layout.unflatten(theta), layout.alpha, fmt="diffusers")
    stock = load_model(model.source, device="cpu").pipe
    call = {"num_inference_steps": 3, "output_type": "np", "generator": torch.Generator().manual_seed(5)}
    call |= dict(model.family.drawing)
    stock.load_lora_weights(str(tmp_path / "lora"))
    with torch.inference_mode():
        theirs = np.rint(stock(PROMPT, **call).images[0] * 255)
    assert np.abs(theirs - ours).max() <= 1
    assert np.abs(ours.astype(int) - bare).max() >= 1


@pytest.mark.parametrize("kind", tiny_flow.KINDS)
def test_fingerprints_tell_models_apart(opened: Any, kind: str, tmp_path: Path) -> None:
    model = opened(kind)
    layout = own_layout(model, 1, 4.0)
    thetas = np.stack([tiny.theta(layout, 1), tiny.theta(layout, 2), tiny.theta(layout, 1), np.zeros(layout.dim)])
    found = of_thetas(model, layout, thetas.astype(np.float32), PROMPT)
    assert np.allclose(found[0], found[2], atol=1e-5)
    assert np.abs(found[3]).max() < 1e-5
    assert np.linalg.norm(found[0] - found[1]) > 0.1 * np.linalg.norm(found[0])
    write_lora(tmp_path / "lora", layout.unflatten(thetas[0].astype(np.float32)), layout.alpha, fmt="diffusers")
    (read,) = fingerprints(model, [read_adapter(tmp_path / "lora")], PROMPT)
    assert np.allclose(read, found[0], atol=1e-4)


def test_the_first_guess_is_for_unets(opened: Any) -> None:
    model = opened("sd3")
    with pytest.raises(UsageError, match="middle of a UNet"):
        features(model, torch.zeros(1, *model.latent_shape), model.encode_text(PROMPT))
