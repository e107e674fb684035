"""The straightforward procedures do what they say, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.paper_inversion import paper_invert
from benchmarks.peft_training import peft_train
from tests.diffusion import tiny
from tests.diffusion.test_invert import basis_for
from w2w_registry.diffusion.pipeline import DiffusionModel

Models = Callable[[str], DiffusionModel]


def test_the_papers_procedure_takes_the_gradient_ours_takes(tiny_model: Models) -> None:
    """Adam's first step moves every coordinate by the learning rate along the sign of its gradient."""
    from w2w_registry.diffusion.train import denoising_target

    model = tiny_model("sd1")
    layout = tiny.layout(model.unet)
    basis = basis_for(layout)
    words, latents = model.encode_text("x"), model.encode_images(tiny.photo(1)[None])
    arrays = {"mean": basis.mean.numpy(), "std": basis.std.numpy(), "components": basis.components.numpy()}
    before = {k: v.clone() for k, v in model.unet.state_dict().items()}
    point = paper_invert(model, layout, arrays, latents[0], words, steps=1, lr=0.1, seed=3)

    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(latents.shape, generator=generator)
    t = torch.randint(0, 1000, (1,), generator=generator)
    noisy, target = denoising_target(model.scheduler, latents, noise, t)
    white = torch.zeros(1, basis.k, requires_grad=True)
    with model.bank(layout).apply(basis.theta(white)):
        loss = (model.unet(noisy, t, words.text[None]).sample - target).square().mean()
    (gradient,) = torch.autograd.grad(loss, white)
    np.testing.assert_allclose(point, -0.1 * np.sign(gradient[0].numpy()), rtol=1e-3)
    after = model.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_peft_training_takes_its_adapter_out_again(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    words, latents = model.encode_text("x"), model.encode_images(tiny.photo(1)[None])
    before = set(model.unet.state_dict())
    assert peft_train(model, latents, words, steps=2, samples=2) > 0
    assert set(model.unet.state_dict()) == before
    assert not any(p.requires_grad for p in model.unet.parameters())
