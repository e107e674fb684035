"""The real diffusers and PEFT load what is written, with the same ΔW; what they write reads back identical."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from w2w_registry.lora import read_lora, write_lora

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

RANKS_AND_ALPHAS = [(1, 27.0), (4, 27.0), (4, 4.0), (1, 0.5)]


def make_unet() -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return unet.eval()


def target_modules(unet: Any) -> dict[str, Any]:
    return {
        name: module
        for name, module in unet.named_modules()
        if name.endswith((".to_q", ".to_v")) and isinstance(module, torch.nn.Linear)
    }


def random_tensors(unet: Any, rank: int, seed: int = 0, convolution: bool = False) -> dict[tuple[str, str], np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors: dict[tuple[str, str], np.ndarray] = {}
    for name, module in target_modules(unet).items():
        tensors[(name, "A")] = rng.normal(size=(rank, module.in_features)).astype(np.float32)
        tensors[(name, "B")] = (0.1 * rng.normal(size=(module.out_features, rank))).astype(np.float32)
    if convolution:
        tensors[("conv_in", "A")] = (0.1 * rng.normal(size=(rank, 4, 3, 3))).astype(np.float32)
        tensors[("conv_in", "B")] = (0.1 * rng.normal(size=(8, rank, 1, 1))).astype(np.float32)
    return tensors


def merged_output(tensors: dict[tuple[str, str], np.ndarray], alphas: dict[str, float]) -> Any:
    """Output of the UNet with ΔW = (alpha / r) · B A added by hand."""
    unet = make_unet()
    for name in alphas:
        a, b = torch.tensor(tensors[(name, "A")]), torch.tensor(tensors[(name, "B")])
        weight = unet.get_submodule(name).weight
        delta = (b.flatten(1) @ a.flatten(1)) * (alphas[name] / a.shape[0])
        weight.data += delta.reshape(weight.shape)
    return output(unet)


def output(unet: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 5, 12, generator=generator)
    with torch.no_grad():
        return unet(sample, torch.tensor([10, 700]), encoder_hidden_states=text).sample


def relative(a: Any, b: Any) -> float:
    return float((a - b).norm() / b.norm())


def with_diffusers(path: Path) -> Any:
    """The UNet with a LoRA loaded the way ``StableDiffusionPipeline.load_lora_weights`` loads it."""
    unet = make_unet()
    mixin = type(
        "Pipe", (diffusers.loaders.StableDiffusionLoraLoaderMixin,), {"components": {}, "hf_device_map": None}
    )()
    mixin.unet, mixin.text_encoder = unet, SimpleNamespace()
    mixin.load_lora_weights(
        str(path.parent if path.is_file() else path), weight_name=path.name if path.is_file() else None
    )
    return unet


@pytest.mark.parametrize(("rank", "alpha"), RANKS_AND_ALPHAS)
@pytest.mark.parametrize("fmt", ["diffusers", "kohya"])
def test_diffusers_loads_it(tmp_path: Path, fmt: str, rank: int, alpha: float) -> None:
    unet = make_unet()
    tensors = random_tensors(unet, rank)
    (path,) = write_lora(tmp_path / "one.safetensors", tensors, alpha, fmt=fmt)
    expected = merged_output(tensors, dict.fromkeys(target_modules(unet), alpha))
    loaded = output(with_diffusers(path))
    assert relative(loaded, expected) < 1e-5
    assert relative(output(unet), expected) > 1e-3  # the LoRA does something, so the line above can fail


@pytest.mark.parametrize(("rank", "alpha"), RANKS_AND_ALPHAS)
def test_peft_loads_it(tmp_path: Path, rank: int, alpha: float) -> None:
    unet = make_unet()
    tensors = random_tensors(unet, rank)
    write_lora(tmp_path / "one", tensors, alpha, base_model="acme/base", revision="r1")
    expected = merged_output(tensors, dict.fromkeys(target_modules(unet), alpha))
    loaded = peft.PeftModel.from_pretrained(unet, str(tmp_path / "one"))
    assert loaded.peft_config["default"].base_model_name_or_path == "acme/base"
    assert relative(output(loaded), expected) < 1e-5


@pytest.mark.parametrize("fmt", ["peft", "diffusers"])
def test_mixed_ranks_and_alphas_and_a_convolution(tmp_path: Path, fmt: str) -> None:
    unet = make_unet()
    tensors = random_tensors(unet, 2, convolution=True)
    first, second, *_ = target_modules(unet)
    tensors |= {k: v for k, v in random_tensors(unet, 4, seed=1).items() if k[0] == first}
    alphas = dict.fromkeys([*target_modules(unet), "conv_in"], 8.0) | {second: 3.0, "conv_in": 1.5}
    write_lora(tmp_path / "one", tensors, alphas, fmt=fmt)
    expected = merged_output(tensors, alphas)
    loaded = (
        peft.PeftModel.from_pretrained(unet, str(tmp_path / "one"))
        if fmt == "peft"
        else with_diffusers(tmp_path / "one")
    )
    assert relative(output(loaded), expected) < 1e-5


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_files_load_as_read(tmp_path: Path, dtype: str) -> None:
    unet = make_unet()
    write_lora(tmp_path / "one", random_tensors(unet, 4), 27.0, fmt="diffusers", dtype=dtype)
    lora = read_lora(tmp_path / "one")
    expected = merged_output(dict(lora.tensors), dict(lora.alphas))
    assert relative(output(with_diffusers(tmp_path / "one")), expected) < 1e-5


def trained_by_peft(rank: int, alpha: float, **more: Any) -> Any:
    """A UNet with a PEFT adapter whose B is no longer zero."""
    unet = make_unet()
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=["to_q", "to_v"], init_lora_weights="gaussian", **more
    )
    unet.add_adapter(config)
    torch.manual_seed(2)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    return unet


def factors(unet: Any) -> dict[tuple[str, str], np.ndarray]:
    found = {}
    for name, parameter in unet.named_parameters():
        for factor in "AB":
            if f".lora_{factor}." in name:
                module = name.split(f".lora_{factor}.")[0].removeprefix("base_model.model.")
                found[(module, factor)] = parameter.detach().numpy()
    return found


@pytest.mark.parametrize(("rank", "alpha"), RANKS_AND_ALPHAS)
def test_reads_what_diffusers_saves(tmp_path: Path, rank: int, alpha: float) -> None:
    unet = trained_by_peft(rank, alpha)
    config = unet.peft_config["default"].to_dict()
    state = peft.utils.get_peft_model_state_dict(unet)
    for name, metadata in (("with", config), ("without", None)):
        diffusers.StableDiffusionPipeline.save_lora_weights(
            tmp_path / name,
            unet_lora_layers=dict(state),
            unet_lora_adapter_metadata=metadata,
        )
    for lora, expected in ((read_lora(tmp_path / "with"), alpha), (read_lora(tmp_path / "without"), float(rank))):
        assert lora.format == "diffusers"
        assert lora.alpha == expected
        assert {k: v.shape for k, v in factors(unet).items()} == lora.shapes
        assert all(np.array_equal(lora.tensors[k], v) for k, v in factors(unet).items())


def test_reads_what_the_unet_saves(tmp_path: Path) -> None:
    unet = trained_by_peft(4, 27)
    unet.save_lora_adapter(tmp_path)
    lora = read_lora(tmp_path)
    assert (lora.alpha, lora.alpha_source) == (27.0, "header")
    assert all(np.array_equal(lora.tensors[k], v) for k, v in factors(unet).items())


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"to_v": 2}, "alpha_pattern": {"^mid_block.*to_q": 3}},
        {"alpha_pattern": {r"down_blocks\.0.*attn1\.to_v": 5, "to_v": 7}},
    ],
)
def test_reads_what_peft_saves(tmp_path: Path, more: dict[str, Any]) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=27, target_modules=["to_q", "to_v"], init_lora_weights="gaussian", **more)
    model = peft.get_peft_model(make_unet(), config)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(str(tmp_path))
    lora = read_lora(tmp_path)
    assert all(np.array_equal(lora.tensors[k], v) for k, v in factors(model).items())
    assert relative(merged_output(dict(lora.tensors), dict(lora.alphas)), output(model.eval())) < 1e-5
    # And once more through our own writer.
    write_lora(tmp_path / "again", lora)
    again = peft.PeftModel.from_pretrained(make_unet(), str(tmp_path / "again"))
    assert relative(output(again), output(model)) < 1e-5


def test_kohya_names_agree_with_diffusers(tmp_path: Path) -> None:
    """diffusers turns our kohya file into the very keys of its diffusers twin."""
    tensors = random_tensors(make_unet(), 2)
    (kohya,) = write_lora(tmp_path / "k.safetensors", tensors, 27.0, fmt="kohya")
    (twin,) = write_lora(tmp_path / "d.safetensors", tensors, 27.0, fmt="diffusers")
    assert np.array_equal(read_lora(kohya).theta(), read_lora(twin).theta())
    a, b = with_diffusers(kohya), with_diffusers(twin)
    assert torch.equal(output(a), output(b))


# -- every part of the pipeline ---------------------------------------------------------------------------
def make_text_encoder() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.CLIPTextConfig(
        vocab_size=100,
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return transformers.CLIPTextModel(config).eval()


def text_state(encoder: Any, prefix: str, rank: int = 2, seed: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    state: dict[str, np.ndarray] = {}
    for name, module in encoder.named_modules():
        if name.endswith(("q_proj", "fc1")):
            stem = f"{prefix}text_model.{name.removeprefix('text_model.')}"
            state[f"{stem}.lora_A.weight"] = rng.normal(size=(rank, module.in_features)).astype(np.float32)
            state[f"{stem}.lora_B.weight"] = rng.normal(size=(module.out_features, rank)).astype(np.float32)
    return state


@pytest.mark.parametrize("fmt", ["diffusers", "kohya", "peft"])
def test_a_text_encoders_share_survives_and_loads(tmp_path: Path, fmt: Any) -> None:
    """Into diffusers from diffusers' and kohya's form, into PEFT from a folder of its own."""
    from safetensors.numpy import save_file

    unet, encoder = make_unet(), make_text_encoder()
    state = {f"unet.{m}.lora_{x}.weight": a for (m, x), a in random_tensors(unet, 4).items()}
    state |= text_state(encoder, "text_encoder.")
    save_file(state, tmp_path / "in.safetensors")
    lora = read_lora(tmp_path / "in.safetensors")
    assert len(lora.ignored) == 4
    assert lora.left == ()
    out = tmp_path / ("out" if fmt == "peft" else "out.safetensors")
    written = write_lora(out, lora, fmt=fmt)
    if fmt == "peft":
        assert {str(f.relative_to(out)) for f in written} >= {"text_encoder/adapter_model.safetensors"}
        encoder = peft.PeftModel.from_pretrained(encoder, out / "text_encoder")
    else:
        back = read_lora(out)
        assert [b.part for b in back.beside] == ["text_encoder"]
        for key, array in lora.beside[0].tensors.items():
            np.testing.assert_array_equal(back.beside[0].tensors[key], array)
        assert back.beside[0].alphas == lora.beside[0].alphas
        if fmt == "kohya":  # diffusers does not load kohya's text encoder layers into transformers 5's
            return
        mixin = diffusers.StableDiffusionPipeline
        loaded, alphas, metadata = mixin.lora_state_dict(str(out), return_lora_metadata=True)
        mixin.load_lora_into_text_encoder(loaded, alphas, encoder, prefix="text_encoder", metadata=metadata)
    found = {
        name.removeprefix("base_model.model.").removeprefix("text_model."): next(
            iter(module.get_delta_weight(a) for a in module.lora_A)
        )
        for name, module in encoder.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert len(found) == 4
    for name, delta in found.items():
        a, b = (state[f"text_encoder.text_model.{name}.lora_{x}.weight"] for x in "AB")
        assert relative(delta.detach(), torch.tensor(b @ a)) < 1e-6
