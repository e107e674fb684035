from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.diffusion import tiny
from w2w_registry.diffusion.families import Conditioning
from w2w_registry.diffusion.initializer import Initializer, features, fit_initializer
from w2w_registry.diffusion.invert import InitialPoint, InvertConfig, SpaceBasis, invert, latent_masks, noise_for
from w2w_registry.diffusion.pipeline import DiffusionModel
from w2w_registry.diffusion.train import denoising_target
from w2w_registry.errors import UsageError
from w2w_registry.space.layout import Layout, layout_of

Models = Callable[[str], DiffusionModel]
FAST = InvertConfig(steps=6, samples=4, held_out=4, every=2, patience=3, prior=0.02)


def basis_for(layout: Layout, k: int = 5, seed: int = 0) -> SpaceBasis:
    rng = np.random.default_rng(seed)
    v = np.linalg.qr(rng.normal(size=(layout.dim, k)))[0].astype(np.float32)
    std = rng.uniform(0.5, 1.5, layout.dim).astype(np.float32)
    spread = (np.linspace(2.0, 0.5, k) * np.sqrt(layout.dim) * 0.2).astype(np.float32)
    mean = tiny.theta(layout, seed)
    return SpaceBasis.of(layout, mean, std, v, spread, device=torch.device("cpu"))


class Portrait(nn.Module):
    """A "UNet" that predicts a picture of the identity itself, whatever the noise: the loss has one true answer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.to_q = nn.Linear(6, 4 * 4 * 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> Any:
        return SimpleNamespace(sample=self.to_q(text).mean(1).reshape(-1, 4, 4, 4))


@pytest.fixture
def portrait() -> tuple[DiffusionModel, SpaceBasis, Conditioning]:
    from diffusers import DDIMScheduler

    unet = Portrait().requires_grad_(False)
    pipe = SimpleNamespace(unet=unet, scheduler=DDIMScheduler(prediction_type="sample"))
    layout = layout_of({("to_q", "A"): (2, 6), ("to_q", "B"): (64, 2)}, 2.0)
    model = DiffusionModel(pipe, "portrait", None, torch.device("cpu"), torch.float32)
    text = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    return model, basis_for(layout, k=4), Conditioning(text)


def drawn(model: DiffusionModel, basis: SpaceBasis, words: Conditioning, white: torch.Tensor) -> torch.Tensor:
    with model.bank(basis.layout).apply(basis.theta(white)), torch.no_grad():
        text = words.text.expand(len(white), *words.text.shape)
        return model.unet(torch.zeros(len(white)), torch.zeros(len(white)), text).sample


def test_identities_are_found_again(portrait: tuple[DiffusionModel, SpaceBasis, Conditioning]) -> None:
    model, basis, words = portrait
    truth = torch.randn(3, basis.k, generator=torch.Generator().manual_seed(2))
    photos = drawn(model, basis, words, truth)
    config = InvertConfig(steps=300, samples=2, lr=0.1, prior=1e-6, emphasis=1.0, every=10, patience=30, held_out=2)
    found = invert(model, basis, photos, words, config)
    for answer, white in zip(found, truth, strict=True):
        np.testing.assert_allclose(answer.coordinates, (white * basis.component_std).numpy(), rtol=0.05, atol=0.1)
        assert answer.loss < 0.01 * answer.mean_loss
        assert answer.explained > 0.99
        assert answer.typicality == pytest.approx(float(white.square().mean().sqrt()), rel=0.05)


def test_a_strong_prior_keeps_the_start(portrait: tuple[DiffusionModel, SpaceBasis, Conditioning]) -> None:
    model, basis, words = portrait
    truth = torch.ones(1, basis.k)
    photos = drawn(model, basis, words, truth)
    guess = InitialPoint(torch.full((1, basis.k), 0.3), torch.full((basis.k,), 0.5))
    weak = invert(
        model, basis, photos, words, InvertConfig(steps=80, samples=2, lr=0.1, prior=1e-6, emphasis=1.0), initial=guess
    )[0]
    strong = invert(
        model, basis, photos, words, InvertConfig(steps=80, samples=2, lr=0.1, prior=1e4, emphasis=1.0), initial=guess
    )[0]
    start = (guess.white * basis.component_std)[0].numpy()
    gap = [float(np.linalg.norm(r.coordinates - start)) for r in (weak, strong)]
    assert gap[1] < 0.05 * gap[0]


def test_what_lies_outside_the_mask_does_not_matter(
    portrait: tuple[DiffusionModel, SpaceBasis, Conditioning],
) -> None:
    model, basis, words = portrait
    photos = drawn(model, basis, words, torch.ones(1, basis.k))
    spoilt = photos.clone()
    spoilt[..., 2:] = 9.0
    mask = torch.zeros(1, 4, 4)
    mask[..., :2] = 1.0
    config = InvertConfig(steps=30, samples=2)
    clean = invert(model, basis, photos, words, config, masks=mask)[0]
    same = invert(model, basis, spoilt, words, config, masks=mask)[0]
    np.testing.assert_array_equal(clean.coordinates, same.coordinates)
    other = invert(model, basis, spoilt, words, config)[0]
    assert not np.allclose(clean.coordinates, other.coordinates)


def test_masks_are_shrunk_to_the_latents(tiny_model: Models) -> None:
    mask = np.zeros((1, 32, 32), np.float32)
    mask[:, :, :16] = 1.0
    small = latent_masks(tiny_model("sd1"), mask)
    assert small.shape == (1, 16, 16)
    assert bool((small[:, :, :8] == 1).all())
    assert not small[:, :, 8:].any()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_inversion_lowers_the_held_out_loss_of_every_kind_of_model(tiny_model: Models, kind: str) -> None:
    model = tiny_model(kind)
    basis = basis_for(tiny.layout(model.unet))
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(1)]))
    # Without emphasis: in a network of noise a walk that nothing holds back ends where the loss is least.
    config = InvertConfig(steps=12, samples=4, held_out=8, prior=1e-4, emphasis=1.0)
    (found,) = invert(model, basis, latents, words, config)
    assert found.loss < 0.99 * found.mean_loss
    assert found.loss == pytest.approx(min(loss for _, loss in found.history))
    assert found.history[0][1] == pytest.approx(found.start_loss)


def test_the_rate_is_held_and_then_falls_to_nothing() -> None:
    config = InvertConfig(steps=20, lr=0.4, hold=0.5)
    rates = [config.rate(step) for step in range(20)]
    assert rates[:11] == [0.4] * 11
    np.testing.assert_allclose(np.diff(rates[10:]), -0.04)
    assert config.rate(20) == 0.0
    assert {replace(config, hold=1.0).rate(step) for step in range(20)} == {0.4}


def test_a_walk_converges_when_its_end_finds_little_more(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    basis = basis_for(tiny.layout(model.unet))
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(1)]))
    config = replace(FAST, prior=1e-4, emphasis=1.0, every=10)
    short = invert(model, basis, latents, words, replace(config, steps=5))[0]
    assert not short.converged
    assert any("allow more steps" in warning for warning in short.warnings())
    long = invert(model, basis, latents, words, replace(config, steps=60))[0]
    assert long.converged
    assert not any("allow more steps" in warning for warning in long.warnings())


def test_two_runs_with_one_seed_are_the_same_to_the_bit(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    basis = basis_for(tiny.layout(model.unet))
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(1), tiny.photo(2)]))
    first, second = (invert(model, basis, latents, words, FAST) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.coordinates.tobytes() == b.coordinates.tobytes()
        assert a.history == b.history
    other = invert(model, basis, latents, words, InvertConfig(steps=6, samples=4, held_out=4, every=2, seed=1))
    assert not np.array_equal(first[0].coordinates, other[0].coordinates)


def test_photos_of_a_batch_do_not_touch_each_other(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    basis = basis_for(tiny.layout(model.unet))
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(1), tiny.photo(2), tiny.photo(3)]))
    together = invert(model, basis, latents, words, FAST)
    for i in range(3):
        (alone,) = invert(model, basis, latents[i : i + 1], words, FAST)
        np.testing.assert_allclose(alone.coordinates, together[i].coordinates, rtol=1e-3, atol=1e-3)


def test_gradient_is_that_of_the_plain_per_module_formula(tiny_model: Models) -> None:
    """Against autograd through weights that are merged module by module."""
    model = tiny_model("sd1")
    layout = tiny.layout(model.unet)
    basis = basis_for(layout)
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(1)]))
    noise, t = noise_for(0, 0, 4, model.latent_shape, 1000, 0.0, 1.0)
    noisy, target = denoising_target(model.scheduler, latents.expand(4, -1, -1, -1), noise, t)
    white = torch.zeros(1, basis.k, requires_grad=True)
    text = words.text.expand(4, *words.text.shape)
    with model.bank(layout).apply(basis.theta(white)):
        loss = (model.unet(noisy, t, text).sample - target).square().mean()
    (ours,) = torch.autograd.grad(loss, white)

    plain = torch.zeros(1, basis.k, requires_grad=True)
    theta = basis.theta(plain)[0]
    pieces = {tensor.key: theta[part].reshape(tensor.shape) for tensor, part in layout.slices()}
    modules = dict(model.unet.named_modules())
    merged = {
        f"{name}.weight": modules[name].weight + layout.scale(name) * pieces[name, "B"] @ pieces[name, "A"]
        for name in layout.modules
    }
    out = torch.func.functional_call(model.unet, merged, (noisy, t, text)).sample
    (theirs,) = torch.autograd.grad((out - target).square().mean(), plain)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_no_steps_give_the_initial_point_itself(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    basis = basis_for(tiny.layout(model.unet))
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(1)]))
    guess = InitialPoint(torch.full((1, basis.k), 0.5), torch.ones(basis.k))
    (found,) = invert(model, basis, latents, words, InvertConfig(steps=0, held_out=4, emphasis=1.0), initial=guess)
    np.testing.assert_allclose(found.coordinates, 0.5 * basis.component_std.numpy())
    assert found.steps == 0


def test_emphasis_goes_further_the_same_way(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    basis = basis_for(tiny.layout(model.unet))
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(1)]))
    plain, loud = (invert(model, basis, latents, words, replace(FAST, emphasis=e))[0] for e in (1.0, 1.5))
    np.testing.assert_allclose(loud.coordinates, 1.5 * plain.coordinates, rtol=1e-5)
    assert loud.loss != plain.loss
    assert loud.typicality == pytest.approx(1.5 * plain.typicality, rel=1e-5)


def test_noise_is_stratified_antithetic_and_seeded() -> None:
    noise, t = noise_for(3, 5, 8, (2, 4, 4), 1000, 0.2, 0.6)
    torch.testing.assert_close(noise[:4], -noise[4:])
    assert torch.equal(t[:4], t[4:])
    assert [int((v - 200) // 100) for v in t[:4]] == [0, 1, 2, 3]
    again, _ = noise_for(3, 5, 8, (2, 4, 4), 1000, 0.2, 0.6)
    assert torch.equal(noise, again)
    assert not torch.equal(noise, noise_for(3, 6, 8, (2, 4, 4), 1000, 0.2, 0.6)[0])
    assert noise_for(3, -1, 3, (2, 4, 4), 1000, 0.0, 1.0)[0].shape == (3, 2, 4, 4)


@pytest.mark.parametrize(
    "bad", [{"samples": 0}, {"lr": 0.0}, {"low": 0.7, "high": 0.2}, {"steps": -1}, {"emphasis": 0.0}, {"hold": 1.5}]
)
def test_settings_must_make_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        InvertConfig(**bad).check()


def test_a_basis_keeps_the_leading_components(tiny_model: Models) -> None:
    layout = tiny.layout(tiny_model("sd1").unet)
    full = basis_for(layout, k=5)
    arrays = (full.mean.numpy(), full.std.numpy(), full.components.numpy(), full.component_std.numpy())
    part = SpaceBasis.of(layout, *arrays, device=torch.device("cpu"), count=2)
    white = torch.randn(2, 5)
    white[:, 2:] = 0
    torch.testing.assert_close(part.theta(white[:, :2]), full.theta(white))
    with pytest.raises(UsageError):
        SpaceBasis.of(layout, *arrays, device=torch.device("cpu"), count=6)


# -- the initializer ---------------------------------------------------------------------------------
def test_initializer_learns_what_features_tell_and_admits_what_they_do_not() -> None:
    rng = np.random.default_rng(0)
    people, photos = 150, 4
    white = rng.normal(size=(people, 3))
    identities = np.repeat(np.arange(people), photos)
    sight = rng.normal(size=(2, 30))
    rows = (white[identities, :2] @ sight + 0.3 * rng.normal(size=(len(identities), 30))).astype(np.float32)
    model = fit_initializer(rows, white[identities].astype(np.float32), identities)
    assert model.variance[:2].max() < 0.2
    assert model.variance[2] > 0.8
    fresh = rng.normal(size=(50, 2))
    guess = model((fresh @ sight).astype(np.float32))
    assert np.corrcoef(guess.white[:, 0], fresh[:, 0])[0, 1] > 0.95
    back = Initializer.from_tensors(model.to_tensors())
    torch.testing.assert_close(back((fresh @ sight).astype(np.float32)).white, guess.white)
    torch.testing.assert_close(model.fitted_to(2)((fresh @ sight).astype(np.float32)).white, guess.white[:, :2])
    wider = model.fitted_to(5)((fresh @ sight).astype(np.float32))
    torch.testing.assert_close(wider.white[:, :3], guess.white)
    assert not wider.white[:, 3:].any()
    assert wider.variance[3:].tolist() == [1.0, 1.0]


def test_initializer_copes_with_more_features_than_photos() -> None:
    rng = np.random.default_rng(1)
    white = rng.normal(size=(60, 2)).astype(np.float32)
    rows = (white @ rng.normal(size=(2, 300)) + 0.1 * rng.normal(size=(60, 300))).astype(np.float32)
    model = fit_initializer(rows, white, np.arange(60))
    assert model.variance.max() < 0.3
    assert np.abs(model(rows).white.numpy() - white).mean() < 0.3


def test_initializer_sees_what_is_not_in_proportion_to_any_feature() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(900, 3)).astype(np.float32)
    white = np.sqrt(2.0) * np.cos(2.0 * rows[:, :1]).astype(np.float32)
    model = fit_initializer(rows, white, np.arange(900))
    fresh = rng.normal(size=(200, 3)).astype(np.float32)
    found = model(fresh).white.numpy()[:, 0]
    assert np.corrcoef(found, np.cos(2.0 * fresh[:, 0]))[0, 1] > 0.9
    assert model.variance[0] < 0.3


def test_initializer_holds_nobody_s_features() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(80, 40)).astype(np.float32)
    model = fit_initializer(rows, rows[:, :2].copy(), np.arange(80))
    assert model.landmarks is not None
    seen = (rows - model.mean) / model.std
    apart = np.linalg.norm(model.landmarks[:, None] - seen[None], axis=2)
    among = np.linalg.norm(seen[:, None] - seen[None], axis=2)[~np.eye(80, dtype=bool)]
    # No nearer to any photo than another photo is.
    assert apart.min() > 0.9 * among.min()


def test_a_linear_initializer_of_an_earlier_version_is_still_read() -> None:
    tensors = {
        "mean": np.array([1.0, 2.0], np.float32),
        "std": np.array([2.0, 1.0], np.float32),
        "weights": np.array([[1.0], [3.0]], np.float32),
        "bias": np.array([0.5], np.float32),
        "variance": np.array([0.25], np.float32),
    }
    model = Initializer.from_tensors(tensors)
    guess = model(np.array([[3.0, 4.0]], np.float32))
    assert guess.white.tolist() == [[7.5]]
    assert set(model.to_tensors()) == set(tensors)


def test_initializer_needs_people() -> None:
    with pytest.raises(UsageError):
        fit_initializer(np.zeros((40, 3), np.float32), np.zeros((40, 2), np.float32), np.repeat(np.arange(4), 10))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_features_are_a_row_per_photo_whatever_the_batch(tiny_model: Models, kind: str) -> None:
    model = tiny_model(kind)
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(i) for i in range(3)]))
    rows = features(model, latents, words)
    assert rows.shape[0] == 3
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(features(model, latents, words, batch=1), rows, rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError):
        Initializer(*(np.zeros(4, np.float32),) * 2, np.zeros((4, 2), np.float32), *(np.zeros(2, np.float32),) * 2)(
            rows
        )
