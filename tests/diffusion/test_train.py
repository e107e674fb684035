"""Batched training: deterministic, resumable, and identities do not see each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from tests.diffusion import small  # noqa: E402
from w2w_registry.diffusion.train import TrainConfig, TrainState, draw, initial_theta, rate, train  # noqa: E402

CONFIG = TrainConfig(steps=6, samples=4, lr=1e-2, antithetic=True, average_from=0.5, seed=5)


@pytest.fixture(scope="module")
def tiny_unet():
    return small.unet()


@pytest.fixture(scope="module")
def tiny_layout(tiny_unet):
    return small.layout(tiny_unet)


@pytest.fixture(scope="module")
def world(tiny_unet, tiny_layout):
    generator = torch.Generator().manual_seed(9)
    latents = torch.randn((3, 5, 4, 8, 8), generator=generator)
    text = torch.randn((5, 12), generator=generator)
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction")

    def run(config=CONFIG, rows=slice(None), **options):
        theta0 = initial_theta(tiny_layout, 1)
        return train(tiny_unet, scheduler, tiny_layout, theta0, latents[rows], text, config, **options)

    return run


def test_same_seed_same_bits(world):
    assert torch.equal(world().theta, world().theta)
    assert not torch.equal(world().theta, world(replace(CONFIG, seed=6)).theta)


def test_identities_do_not_see_each_other(world):
    together = world()
    for i in range(3):
        alone = world(rows=slice(i, i + 1))
        assert torch.allclose(alone.theta[0], together.theta[i], atol=1e-4)
        assert torch.allclose(alone.losses[:, 0], together.losses[:, i], rtol=1e-4)


@pytest.mark.parametrize("how", [{"at_once": 1}, {"at_once": 2}, {"checkpointing": True}])
def test_saving_memory_changes_nothing_but_rounding(world, how, tiny_unet):
    whole, saving = world(), world(**how)
    assert torch.allclose(saving.theta, whole.theta, atol=1e-4)
    assert torch.allclose(saving.losses, whole.losses, rtol=1e-4)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in tiny_unet.modules())


def test_resumes_to_the_same_bits(world):
    saved = {}

    class Killed(Exception):
        pass

    def kill(state):
        if state.step == 4:
            saved.update({k: v.clone() for k, v in state.to_tensors().items()})
            raise Killed

    with pytest.raises(Killed):
        world(callback=kill)
    resumed = world(state=TrainState.from_tensors(saved))
    whole = world()
    assert torch.equal(resumed.theta, whole.theta)
    assert torch.equal(resumed.losses, whole.losses)


def test_learns(world):
    config = replace(CONFIG, steps=60, antithetic=False, schedule="constant")
    losses = world(config).losses
    assert (losses[-10:].mean(0) < losses[:10].mean(0)).all()


@pytest.mark.parametrize("change", [{"moment": "tensor"}, {"clip": 0.01}, {"bf16": True}, {"average_from": 1.0}])
def test_options_change_the_result(world, change):
    theta = world(replace(CONFIG, **change)).theta
    assert torch.isfinite(theta).all()
    assert not torch.equal(theta, world().theta)


def test_frozen_a_stays(world, tiny_layout):
    theta, start = world(replace(CONFIG, a_lr=0.0, average_from=1.0)).theta, initial_theta(tiny_layout, 1)
    for tensor, part in tiny_layout.slices():
        same = torch.equal(theta[0, part], start[part])
        assert same == (tensor.factor == "A")


def test_prior_preservation_pulls(world):
    generator = torch.Generator().manual_seed(4)
    prior = {"prior_latents": torch.randn((7, 4, 8, 8), generator=generator), "prior_text": torch.randn((5, 12))}
    assert not torch.equal(world(**prior).theta, world().theta)
    assert torch.equal(world(replace(CONFIG, prior_weight=0.0), **prior).theta, world().theta)


def test_draws_are_stratified_paired_and_dealt():
    config = TrainConfig(samples=8, antithetic=True, timesteps=(100, 900), seed=3)
    one = draw(config, 2, 12, (4, 8, 8))
    assert torch.equal(one.noise[:4], -one.noise[4:])
    assert torch.equal(one.timesteps[:4], one.timesteps[4:])
    assert ((one.timesteps[:4] - 100) // 200).tolist() == [0, 1, 2, 3]
    seen = torch.cat([draw(config, step, 12, (4, 8, 8)).photos for step in range(3)])
    assert sorted(seen.tolist()) == sorted([*range(12), *range(12)])


def test_rates():
    assert rate(TrainConfig(steps=10, lr=1.0, schedule="linear"), 5) == pytest.approx(0.5)
    assert rate(TrainConfig(steps=10, lr=1.0, schedule="cosine"), 5) == pytest.approx(0.5)
    assert rate(TrainConfig(steps=10, lr=1.0, schedule="constant", warmup=4), 1) == pytest.approx(0.5)
