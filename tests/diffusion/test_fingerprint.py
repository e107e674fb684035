"""Fingerprints: what an adapter makes the base model predict, whatever form the adapter has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from examples.miniworld.unpack import DATA, Loras, load_loras
from w2w_registry.diffusion import adapters, fingerprint
from w2w_registry.diffusion.fingerprint import (
    ONE_PROBE,
    PROBES,
    QUESTIONS,
    WIDTH,
    Adapter,
    fingerprints,
    of_thetas,
    read_adapter,
)
from w2w_registry.diffusion.pipeline import DiffusionModel, load_model
from w2w_registry.errors import BadLora
from w2w_registry.lora import lora_files

PROMPT = "photo of sks person"
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return load_model(DATA / "pipeline", device="cpu")


@pytest.fixture(scope="module")
def loras() -> Loras:
    return load_loras()


def save(folder: Path, loras: Loras, theta: Array, form: str = "peft") -> Path:
    files = lora_files(folder, loras.layout.unflatten(theta), loras.layout.alpha, fmt=form)  # type: ignore[arg-type]
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def near(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max() < 1e-3 * np.abs(b).max())


def test_a_retrained_person_is_found_and_says_the_same_for_any_factors(model: DiffusionModel, loras: Loras) -> None:
    gallery = of_thetas(model, loras.layout, loras.theta[:60], PROMPT)
    again = of_thetas(model, loras.layout, loras.retrained[:20], PROMPT, batch=7)
    centre = gallery.mean(0)
    a, b = gallery - centre, again - centre
    cosine = (b / np.linalg.norm(b, axis=1, keepdims=True)) @ (a / np.linalg.norm(a, axis=1, keepdims=True)).T
    assert (cosine.argmax(1) == np.arange(20)).all()
    refactored = loras.theta[0].copy()
    for tensor, part in loras.layout.slices():
        refactored[part] *= -3.0 if tensor.factor == "A" else -1 / 3.0
    assert near(of_thetas(model, loras.layout, refactored[None], PROMPT), gallery[:1])


def test_both_probes_count_and_nothing_of_them_is_lost(model: DiffusionModel, loras: Loras) -> None:
    thetas = loras.theta[:12]
    probe = fingerprint._probe(model, PROMPT, PROBES)
    assert len(probe.inputs) == len(QUESTIONS[PROBES]) == 2
    with adapters.applied(model, [Adapter(loras.layout, one) for one in thetas], PROMPT, probe.words) as asked:
        moved = probe.moved(*asked).numpy()
    half = np.square(moved[:, : moved.shape[1] // 2]).sum(1) / np.square(moved).sum(1)
    assert ((half > 0.1) & (half < 0.9)).all()
    found = of_thetas(model, loras.layout, thetas, PROMPT)
    lengths = np.linalg.norm(found, axis=1) / np.linalg.norm(moved, axis=1)
    assert np.abs(lengths - 1).max() < 0.1  # a plain random matrix: .13 beside .05
    earlier = of_thetas(model, loras.layout, thetas, PROMPT, probes=ONE_PROBE)
    assert earlier.shape == found.shape
    assert not near(earlier, found)


def test_an_adapter_that_does_nothing_has_no_fingerprint(model: DiffusionModel, loras: Loras) -> None:
    found = of_thetas(model, loras.layout, loras.theta0[None], PROMPT)
    assert found.shape == (1, WIDTH)
    assert np.abs(found).max() < 1e-4


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
def test_read_by_us_or_by_diffusers_it_is_the_same(
    model: DiffusionModel, loras: Loras, tmp_path: Path, form: str
) -> None:
    path = save(tmp_path / "x.safetensors" if form == "kohya" else tmp_path / "x", loras, loras.theta[3], form)
    ours = read_adapter(path)
    assert ours.theta is not None
    theirs = Adapter(source=adapters._source(path, None))
    both = fingerprints(model, [ours, theirs], PROMPT)
    assert near(both[1:], both[:1])


def test_a_text_encoder_part_and_dora_count(model: DiffusionModel, loras: Loras, tmp_path: Path) -> None:
    plain = {
        f"unet.{module}.lora_{factor}.weight": torch.from_numpy(value.copy())
        for (module, factor), value in loras.layout.unflatten(loras.theta[3]).items()
    }
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    generator = torch.Generator().manual_seed(0)
    also = plain | {
        f"{text}.lora_{f}.weight": torch.randn(s, generator=generator) for f, s in (("A", (2, 64)), ("B", (64, 2)))
    }
    weights = dict(model.unet.named_parameters())
    magnitudes = {
        f"unet.{m}.lora_magnitude_vector": 1.5 * weights[f"{m}.weight"].norm(dim=1) for m in loras.layout.modules
    }
    for name, state in (("plain", plain), ("text", also), ("dora", plain | magnitudes)):
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / f"{name}.safetensors")
    before = model.unet_digest
    three = [read_adapter(tmp_path / f"{name}.safetensors") for name in ("plain", "text", "dora")]
    assert all(adapter.layout is not None for adapter in three)
    found = fingerprints(model, three, PROMPT)
    theirs = [Adapter(source=adapters._source(tmp_path / f"{name}.safetensors", None)) for name in ("text", "dora")]
    assert near(fingerprints(model, theirs, PROMPT), found[1:])
    for other in found[1:]:
        assert np.linalg.norm(other - found[0]) > 0.05 * np.linalg.norm(found[0])
    # Nothing stays behind: the base model answers as before, and so does every adapter.
    del model.__dict__["unet_digest"]
    assert model.unet_digest == before
    assert near(fingerprints(model, three[::-1], PROMPT)[::-1], found)


def test_any_rank_per_layer_and_products_of_factors_are_probed_together(
    model: DiffusionModel, loras: Loras, tmp_path: Path
) -> None:
    """Layers of different ranks and scales, and a LoHa, as diffusers' own merge draws them."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for number, module in enumerate(loras.layout.modules[:6]):
        rank, (out, _), (_, wide) = 1 + number, *(loras.layout.by_key[module, f].shape for f in ("B", "A"))
        state[f"unet.{module}.lora_A.weight"] = 0.3 * torch.randn((rank, wide), generator=generator)
        state[f"unet.{module}.lora_B.weight"] = 0.3 * torch.randn((out, rank), generator=generator)
    save_file(state, tmp_path / "mixed.safetensors")
    found = read_adapter(tmp_path / "mixed.safetensors")
    assert found.layout is not None
    assert found.layout.rank == 0
    theirs = Adapter(source=adapters._source(tmp_path / "mixed.safetensors", None))
    assert near(fingerprints(model, [theirs], PROMPT), fingerprints(model, [found], PROMPT))


@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_products_and_convolutions_are_probed_as_their_dense_change(
    model: DiffusionModel, loras: Loras, tmp_path: Path, layer: str
) -> None:
    """A LoHa as LyCORIS writes it: of a linear layer (batched) or a convolution (added to the weights)."""
    generator = torch.Generator().manual_seed(0)
    module = loras.layout.modules[0] if layer == "linear" else "down_blocks.0.resnets.0.conv1"
    weight = dict(model.unet.named_parameters())[f"{module}.weight"]
    out, wide = weight.shape[0], weight[0].numel()
    flat = "lora_unet_" + module.replace(".", "_")
    halves = {f"hada_w{n}_{f}": torch.randn(s, generator=generator)
              for n in (1, 2) for f, s in (("a", (out, 2)), ("b", (2, wide)))}  # fmt: skip
    save_file(
        {f"{flat}.{k}": v for k, v in halves.items()} | {f"{flat}.alpha": torch.tensor(2.0)}, tmp_path / "x.safetensors"
    )
    plain = {f"{flat}.{k}": v for k, v in halves.items()}
    found = read_adapter(tmp_path / "x.safetensors")
    assert found.layout is not None or found.changes
    before, digest = weight.detach().clone(), model.unet_digest
    ours = fingerprints(model, [found], PROMPT)
    assert torch.equal(weight, before)
    dense = (plain[f"{flat}.hada_w1_a"] @ plain[f"{flat}.hada_w1_b"]) * (
        plain[f"{flat}.hada_w2_a"] @ plain[f"{flat}.hada_w2_b"]
    )
    probe = fingerprint._probe(model, PROMPT, PROBES)
    with torch.no_grad():
        weight += dense.reshape(weight.shape)
        moved = probe.moved(probe.words, probe.words.text[None])
        weight.copy_(before)
    assert near((moved @ probe.matrix).numpy(), ours)
    del model.__dict__["unet_digest"]
    assert model.unet_digest == digest


def test_what_nobody_can_load_is_refused(model: DiffusionModel, tmp_path: Path) -> None:
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(1, 4)}, tmp_path / "odd.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(BadLora):
        read_adapter(tmp_path / "broken.safetensors")
    with pytest.raises(BadLora):
        fingerprints(model, [read_adapter(tmp_path / "odd.safetensors")], PROMPT)


def test_epsilon_and_v_prediction_say_the_same(model: DiffusionModel, loras: Loras) -> None:
    """Of one network, read as predicting noise or velocity, the change of the predicted picture differs by a factor
    that depends on nothing but the noise: comparisons stay what they are."""
    before = of_thetas(model, loras.layout, loras.theta[:4], PROMPT, probes=ONE_PROBE)
    config = model.scheduler.config
    model.pipe.scheduler.register_to_config(prediction_type="epsilon")
    try:
        after = of_thetas(model, loras.layout, loras.theta[:4], PROMPT, probes=ONE_PROBE)
    finally:
        model.pipe.scheduler.register_to_config(prediction_type=config.prediction_type)
    factor = np.linalg.norm(after) / np.linalg.norm(before)
    assert factor > 1
    assert near(after, factor * before)
