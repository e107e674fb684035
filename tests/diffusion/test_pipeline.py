from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.diffusion import tiny
from w2w_registry.diffusion import pipeline as p
from w2w_registry.errors import DeviceError, NotFound, SpaceMismatch, UsageError
from w2w_registry.space.layout import Layout

Models = Callable[[str], p.DiffusionModel]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_shape_of_pipeline_opens_and_denoises(tiny_model: Models, kind: str) -> None:
    model = tiny_model(kind)
    assert model.image_size == 32
    assert model.latent_shape == (4, 16, 16)
    words = model.encode_text("photo of sks person")
    latents = model.encode_images(np.stack([tiny.photo(0), tiny.photo(1)]))
    assert latents.shape == (2, 4, 16, 16)
    with model.conditioned(words), torch.no_grad():
        out = model.unet(latents, torch.tensor([10, 500]), words.text.expand(2, *words.text.shape)).sample
    assert out.shape == latents.shape
    assert torch.isfinite(out).all()


def test_sdxl_conditioning_is_what_the_stock_pipeline_passes(tiny_model: Models) -> None:
    model = tiny_model("sdxl")
    seen = {}

    def watch(_m: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        seen.update(kwargs)

    handle = model.unet.register_forward_pre_hook(watch, with_kwargs=True)
    model.pipe("a face", num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    handle.remove()
    words = model.encode_text("a face")
    torch.testing.assert_close(words.text[None], seen["encoder_hidden_states"])
    for key, value in words.added.items():
        torch.testing.assert_close(value[None], seen["added_cond_kwargs"][key])


def test_latents_decode_back_with_the_pipelines_own_scale(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    pixels = tiny.photo(3)[None]
    latents = model.encode_images(pixels)
    x = torch.from_numpy(pixels).float().permute(0, 3, 1, 2) / 127.5 - 1
    expected = model.pipe.vae.encode(x).latent_dist.mode() * 0.9
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(model.encode_images(np.repeat(pixels, 5, 0), batch=2), latents.repeat(5, 1, 1, 1))


def test_a_space_of_another_unet_is_refused(tiny_model: Models) -> None:
    model = tiny_model("sd1")
    layout = tiny.layout(tiny_model("sdxl").unet)
    with pytest.raises(SpaceMismatch):
        model.bank(layout)
    assert model.bank(tiny.layout(model.unet)).layout.dim == tiny.layout(model.unet).dim
    with pytest.raises(SpaceMismatch):
        model.bank(
            Layout.from_json(
                {"alpha": 1.0, "tensors": [["nowhere.to_q", "A", [1, 16]], ["nowhere.to_q", "B", [16, 1]]]}
            )
        )


def test_digest_knows_the_weights(tiny_folder: Callable[[str], Path], tiny_model: Models) -> None:
    first = p.load_model(tiny_folder("sd1"), device="cpu")
    assert first.unet_digest == tiny_model("sd1").unet_digest
    with torch.no_grad():
        next(first.unet.parameters())[0, 0, 0, 0] += 1
    del first.__dict__["unet_digest"]
    assert first.unet_digest != tiny_model("sd1").unet_digest


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        p.load_model(tmp_path, device="cpu")
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtPipeline", "transformer": ["diffusers", "X"]}')
    with pytest.raises(UsageError) as caught:
        p.load_model(tmp_path, device="cpu")
    assert "no UNet" in caught.value.fields["reason"]


def test_devices_and_dtypes() -> None:
    assert p.pick_device("cpu").type == "cpu"
    assert p.pick_dtype(torch.device("cpu")) == torch.float32
    assert p.pick_dtype(torch.device("cpu"), "bfloat16") == torch.bfloat16
    with pytest.raises(UsageError):
        p.pick_dtype(torch.device("cpu"), "int3")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        assert p.pick_device("auto").type == "cpu"
        with pytest.raises(DeviceError):
            p.pick_device("cuda")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_change(error: Exception) -> None:
    with pytest.raises(DeviceError) as caught, p.memory_guard(torch.device("cpu"), "use fewer samples"):
        raise error
    assert caught.value.fields["hint"] == "use fewer samples"


def test_other_errors_pass_the_memory_guard() -> None:
    with pytest.raises(RuntimeError, match="shape"), p.memory_guard(torch.device("cpu"), ""):
        raise RuntimeError("shape mismatch")
