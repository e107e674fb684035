from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.diffusion import tiny
from w2w_registry.diffusion.generate import Recipe, Shot, draw
from w2w_registry.diffusion.pipeline import DiffusionModel
from w2w_registry.errors import SpaceMismatch, UsageError
from w2w_registry.space.layout import Layout

Models = Callable[[str], DiffusionModel]
RECIPE = Recipe("photo of sks person", steps=5)


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def stock_lora(folder: Path, layout: Layout, theta: np.ndarray) -> Path:
    """The LoRA as a diffusers file, written here by hand so that nothing of the package is trusted."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for (module, factor), value in layout.unflatten(theta).items():
        tensors[f"unet.{module}.lora_{factor}.weight"] = np.ascontiguousarray(value)
    config = {
        "r": layout.rank,
        "lora_alpha": layout.alpha,
        "target_modules": ["to_q", "to_v"],
        "peft_type": "LORA",
    }
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in config.items()}), "format": "pt"}
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata=metadata)
    return folder


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_stock_diffusers_with_the_lora_draws_the_same_picture(
    tiny_folder: Callable[[str], Path], tiny_model: Models, tmp_path: Path, kind: str
) -> None:
    from diffusers import DiffusionPipeline

    model = tiny_model(kind)
    layout = tiny.layout(model.unet)
    theta = tiny.theta(layout, 1)
    recipe = Recipe("photo of sks person", negative="blurry", steps=6, guidance=3.0)
    (ours,) = draw(model, layout, [Shot(theta, 7)], recipe)

    stock = DiffusionPipeline.from_pretrained(tiny_folder(kind))
    stock.set_progress_bar_config(disable=True)
    call = {"negative_prompt": "blurry", "num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "np"}
    (bare,) = stock("photo of sks person", generator=torch.Generator().manual_seed(7), **call).images
    stock.load_lora_weights(stock_lora(tmp_path, layout, theta), weight_name="pytorch_lora_weights.safetensors")
    (theirs,) = stock("photo of sks person", generator=torch.Generator().manual_seed(7), **call).images
    assert apart(ours, np.rint(theirs * 255)) <= 2
    assert apart(ours, np.rint(bare * 255)) > 2, "the LoRA must show, or this proves nothing"


def test_a_picture_does_not_depend_on_its_neighbours(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    layout = tiny.layout(model.unet)
    shots = [Shot(tiny.theta(layout, i), 10 + i) for i in range(3)]
    together = draw(model, layout, shots, RECIPE)
    assert apart(together[0], together[1]) > 2
    for shot, picture in zip(shots, together, strict=True):
        assert apart(draw(model, layout, [shot], RECIPE)[0], picture) <= 1
    split = draw(model, layout, shots, RECIPE, batch=2)
    assert max(apart(a, b) for a, b in zip(split, together, strict=True)) <= 1


def test_same_seed_same_picture_other_seed_another(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    layout = tiny.layout(model.unet)
    theta = tiny.theta(layout, 0)
    first, again, other = (draw(model, layout, [Shot(theta, s)], RECIPE)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert apart(first, other) > 2


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_an_edit_acts_from_its_timestep_on(tiny_model: Models, kind: str) -> None:
    model = tiny_model(kind)
    layout = tiny.layout(model.unet)
    plain, edited = tiny.theta(layout, 0), tiny.theta(layout, 1)

    def picture(limit: int | None) -> np.ndarray:
        recipe = Recipe("photo of sks person", steps=8, edit_from=limit)
        return draw(model, layout, [Shot(plain, 3, edited)], recipe)[0].astype(int)

    (without,) = draw(model, layout, [Shot(plain, 3)], Recipe("photo of sks person", steps=8))
    (whole,) = draw(model, layout, [Shot(edited, 3)], Recipe("photo of sks person", steps=8))
    assert apart(picture(0), without) == 0
    assert apart(picture(1000), whole) == 0
    assert apart(picture(None), whole) == 0
    change = [float(np.abs(picture(limit) - without).mean()) for limit in (150, 500, 900, 1000)]
    assert 0 < change[0] < change[-1]
    assert change == sorted(change)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_local_edit_keeps_the_picture_where_the_edit_does_little(tiny_model: Models, kind: str) -> None:
    model = tiny_model(kind)
    layout = tiny.layout(model.unet)
    shots = [Shot(tiny.theta(layout, i), 3 + i, tiny.theta(layout, i + 5)) for i in range(2)]

    def pictures(local: float | None, limit: int | None = None) -> np.ndarray:
        recipe = Recipe("photo of sks person", steps=6, edit_from=limit, local=local)
        return np.stack(draw(model, layout, shots, recipe)).astype(int)

    without = np.stack(draw(model, layout, [Shot(s.theta, s.seed) for s in shots], Recipe(RECIPE.prompt, steps=6)))
    # Nothing is too little for a share of zero, and an edit that has not begun changes nothing.
    assert apart(pictures(0.0), pictures(None)) <= 1
    assert apart(pictures(0.5, limit=0), without) <= 1
    changed = [float(np.abs(pictures(local) - without).mean()) for local in (0.0, 0.7, 1.0)]
    assert changed[0] > changed[1] > changed[2] > 0


def test_an_unedited_shot_is_untouched_by_local(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    layout = tiny.layout(model.unet)
    shot = Shot(tiny.theta(layout, 0), 1)
    plain = draw(model, layout, [shot], RECIPE)[0]
    np.testing.assert_array_equal(draw(model, layout, [shot], Recipe(RECIPE.prompt, steps=5, local=0.5))[0], plain)


def test_hooks_are_gone_afterwards(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    layout = tiny.layout(model.unet)
    bare = draw(model, layout, [Shot(None, 1)], RECIPE)[0]
    shot = Shot(tiny.theta(layout, 0), 1, tiny.theta(layout, 1))
    draw(model, layout, [shot], Recipe("x", steps=4, edit_from=500))
    np.testing.assert_array_equal(draw(model, layout, [Shot(None, 1)], RECIPE)[0], bare)


def test_prompt_of_a_shot_wins(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    layout = tiny.layout(model.unet)
    first, second = draw(model, layout, [Shot(None, 1), Shot(None, 1, prompt="with a hat")], RECIPE)
    assert apart(first, second) > 0


def test_refusals(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    layout = tiny.layout(model.unet)
    for recipe in (
        Recipe("x", steps=0),
        Recipe("x", guidance=-1.0),
        Recipe("x", edit_from=2000),
        Recipe("x", local=1.5),
    ):
        with pytest.raises(UsageError):
            draw(model, layout, [Shot(None, 1)], recipe)
    other = tiny.layout(tiny_model("sdxl").unet)
    with pytest.raises(SpaceMismatch):
        draw(model, other, [Shot(tiny.theta(other, 0), 1)], RECIPE)
