"""Names of the original code: the layers and ΔW that diffusers' own conversion makes of such files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lora.loras import st_file
from w2w_registry.errors import BadLora
from w2w_registry.lora import read_adapter, read_lora, write_lora
from w2w_registry.lora.tensorfile import read_header

conversions = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
torch = pytest.importorskip("torch")

W = 8
Layer = tuple[str, int, int]
"""Name, width, rows."""


def square(prefix: str, names: Iterable[str]) -> list[Layer]:
    return [(prefix + name, W, W) for name in names]


def flat(layers: Iterable[Layer]) -> list[Layer]:
    return [(f"lora_unet_{name.removeprefix('diffusion_model.').replace('.', '_')}", i, o) for name, i, o in layers]


WAN = square(
    "diffusion_model.blocks.0.",
    (f"{attn}_attn.{x}" for attn in ("self", "cross") for x in "qkvo"),
)
WAN_FF = square("diffusion_model.blocks.0.", ("ffn.0", "ffn.2"))
WAN_MORE = square(
    "diffusion_model.",
    (
        *("blocks.0.cross_attn.k_img", "blocks.0.cross_attn.v_img", "time_embedding.0", "time_embedding.2"),
        *("time_projection.1", "text_embedding.0", "text_embedding.2", "img_emb.proj.1", "img_emb.proj.3", "head.head"),
    ),
)
FLUX2 = [
    (f"diffusion_model.{name}", i * W, o * W)
    for name, i, o in (
        *((f"double_blocks.0.{x}_attn.qkv", 1, 3) for x in ("img", "txt")),
        *((f"double_blocks.0.{x}_attn.proj", 1, 1) for x in ("img", "txt")),
        *((f"double_blocks.0.{x}_mlp.0", 1, 6) for x in ("img", "txt")),
        *((f"double_blocks.0.{x}_mlp.2", 3, 1) for x in ("img", "txt")),
        *((f"double_stream_modulation_{x}.lin", 1, 6) for x in ("img", "txt")),
        *(("single_stream_modulation.lin", 1, 3), ("single_blocks.0.linear1", 1, 9), ("single_blocks.0.linear2", 4, 1)),
    )
]
Z_IMAGE = square(
    "diffusion_model.layers.2.",
    (*(f"attention.to_{x}" for x in ("q", "k", "v", "out.0")), "feed_forward.w1", "adaLN_modulation.0"),
)
QWEN = square(
    "diffusion_model.transformer_blocks.5.",
    (
        *(f"attn.{x}" for x in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "to_add_out")),
        *("img_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1"),
    ),
)
HIDREAM = square("diffusion_model.double_stream_blocks.1.block.", ("attn1.to_q", "attn1.to_q_t", "ff_i.experts.0.w1"))
LTX = square("diffusion_model.transformer_blocks.1.", ("attn1.to_q", "attn2.to_out.0", "ff.net.0.proj"))
HUNYUAN = [
    (f"diffusion_model.{name}", i * W, o * W)
    for name, i, o in (
        *((f"double_blocks.0.{x}_attn_qkv", 1, 3) for x in ("img", "txt")),
        *((f"double_blocks.0.{x}_attn_proj", 1, 1) for x in ("img", "txt")),
        *((f"double_blocks.0.{x}_mlp.fc1", 1, 4) for x in ("img", "txt")),
        *((f"double_blocks.0.{x}_mlp.fc2", 4, 1) for x in ("img", "txt")),
        *((f"double_blocks.0.{x}_mod.linear", 1, 6) for x in ("img", "txt")),
        *(("single_blocks.0.linear2", 5, 1), ("single_blocks.0.modulation.linear", 1, 3), ("img_in.proj", 1, 1)),
        *(("time_in.mlp.0", 1, 1), ("guidance_in.mlp.2", 1, 1), ("final_layer.linear", 1, 1)),
    )
]
CHROMA_GUIDE = "distilled_guidance_layer.layers.3.linear_2"
ANIMA = square(
    "diffusion_model.",
    (
        *(f"blocks.0.{attn}_attn.{x}_proj" for attn in ("self", "cross") for x in ("q", "k", "v", "output")),
        *("blocks.0.mlp.layer1", "blocks.0.mlp.layer2", "blocks.0.adaln_modulation_cross_attn.2", "final_layer.linear"),
    ),
)
LUMINA_WIDTH, LUMINA_ROWS = 2304, 3840  # diffusers cuts its fused layer there
LUMINA = [
    (f"diffusion_model.{block}.{name}", i, o)
    for block in ("layers.0", "noise_refiner.0", "context_refiner.0")
    for name, i, o in (
        *(("attention.qkv", LUMINA_WIDTH, LUMINA_ROWS), ("attention.out", W, W)),
        *((f"feed_forward.w{n}", W, W) for n in (1, 2, 3)),
        *((("adaLN_modulation.1", W, W),) if block != "context_refiner.0" else ()),
    )
]
CASES: dict[str, tuple[list[Layer], str, bool]] = {
    "wan": ([*WAN, *WAN_FF, *WAN_MORE], "_convert_non_diffusers_wan_lora_to_diffusers", False),
    "wan, kohya": (flat([*WAN, *WAN_FF]), "_convert_musubi_wan_lora_to_diffusers", True),
    "flux 2": (FLUX2, "_convert_non_diffusers_flux2_lora_to_diffusers", False),
    "z-image": (Z_IMAGE, "_convert_non_diffusers_z_image_lora_to_diffusers", False),
    "z-image, kohya": (flat(Z_IMAGE), "_convert_non_diffusers_z_image_lora_to_diffusers", True),
    "qwen, kohya": (flat(QWEN), "_convert_non_diffusers_qwen_lora_to_diffusers", True),
    "hidream": (HIDREAM, "_convert_non_diffusers_hidream_lora_to_diffusers", False),
    "hunyuan video": (HUNYUAN, "_convert_hunyuan_video_lora_to_diffusers", False),
    "anima": (ANIMA, "_convert_non_diffusers_anima_lora_to_diffusers", False),
    "lumina 2": (LUMINA, "_convert_non_diffusers_lumina2_lora_to_diffusers", False),
    "ltx": (LTX, "_convert_non_diffusers_ltxv_lora_to_diffusers", False),
}


def state_of(layers: Iterable[Layer], kohya: bool, rank: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    state: dict[str, np.ndarray] = {}
    for name, width, rows in layers:
        state[f"{name}.{down}.weight"] = rng.normal(size=(rank, width)).astype(np.float32)
        state[f"{name}.{up}.weight"] = rng.normal(size=(rows, rank)).astype(np.float32)
        if kohya:
            state[f"{name}.alpha"] = np.asarray(4, np.float32)
    return state


@pytest.mark.parametrize("case", CASES)
def test_the_layers_that_diffusers_makes_of_it(tmp_path: Path, case: str) -> None:
    layers, function, kohya = CASES[case]
    state = state_of(layers, kohya)
    converted: dict[str, Any] = getattr(conversions, function)({k: torch.from_numpy(v) for k, v in state.items()})
    wanted = {
        name.removeprefix("transformer.").partition(".lora_A.")[0]: (
            converted[name.replace(".lora_A.", ".lora_B.")].double() @ tensor.double()
        ).numpy()
        for name, tensor in converted.items()
        if ".lora_A." in name
    }
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    found = {change.module: change.delta() for change in adapter.changes}
    assert {change.part for change in adapter.changes} == {"transformer"}
    assert set(found) == set(wanted)
    for module, delta in wanted.items():
        mine = found[module]
        assert mine is not None
        assert np.abs(mine - delta).max() <= 1e-6 * np.abs(delta).max()


@pytest.mark.parametrize("layers", [ANIMA, HIDREAM, LUMINA], ids=["anima", "hidream", "lumina 2"])
def test_flattened_names_are_of_the_same_layers(tmp_path: Path, layers: list[Layer]) -> None:
    """As sd-scripts writes the models whose files other tools write with dots."""
    dotted = read_adapter(st_file(tmp_path / "x.safetensors", state_of(layers, False)))
    found = read_adapter(st_file(tmp_path / "y.safetensors", state_of(flat(layers), True)))
    assert {(c.part, c.module, c.rows) for c in found.changes} == {(c.part, c.module, c.rows) for c in dotted.changes}
    assert found.parts.keys() == {"transformer"}


@pytest.mark.parametrize("prefix", ["lora_unet_layers_2_attention_", "diffusion_model.layers.2.attention."])
def test_z_images_fused_layer_is_cut_in_three(tmp_path: Path, prefix: str) -> None:
    state = state_of([(f"{prefix}qkv", W, 3 * W), (f"{prefix}out", W, W)], True)
    found = {c.module: c.delta() for c in read_adapter(st_file(tmp_path / "x.safetensors", state)).changes}
    whole = 2.0 * state[f"{prefix}qkv.lora_up.weight"].astype(float) @ state[f"{prefix}qkv.lora_down.weight"]
    for third, x in zip(np.split(whole, 3), "qkv", strict=True):
        assert np.allclose(found.pop(f"layers.2.attention.to_{x}"), third, rtol=1e-6, atol=0)
    assert list(found) == ["layers.2.attention.to_out.0"]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("blocks.0.self_attn.q.lora_{}.default", "blocks.0.attn1.to_q"),  # DiffSynth's Wan
        ("pipe.dit.blocks.0.ffn.0.lora_{}.default", "blocks.0.ffn.net.0.proj"),
        ("diffusion.blocks.0.cross_attn.o.lora_{}", "blocks.0.attn2.to_out.0"),
        ("lora_unet_layers.0.attention.to.k.lora_{}", "layers.0.attention.to_k"),  # dots left where they were
        ("diffusion_model.distilled_guidance_layer.layers.3.out_layer.lora_{}", CHROMA_GUIDE),
        ("lora_unet_distilled_guidance_layer_layers_3_out_layer.lora_{}", CHROMA_GUIDE),
        ("lora_unet_blocks_7_attn2_to_v.lora_{}", "blocks.7.attn2.to_v"),
        ("lora_unet_all_x_embedder_2_1.lora_{}", "all_x_embedder.2-1"),
    ],
)
def test_one_layer_under_each_tools_name(tmp_path: Path, name: str, module: str) -> None:
    state = {f"{name.format('A')}.weight": np.ones((2, W)), f"{name.format('B')}.weight": np.ones((W, 2))}
    (change,) = read_adapter(
        st_file(tmp_path / "x.safetensors", {k: v.astype(np.float32) for k, v in state.items()})
    ).changes
    assert (change.part, change.module) == ("transformer", module)


def test_flux_1_keeps_its_own_layers(tmp_path: Path) -> None:
    """Its feed-forward layers are four times as wide, and single blocks give 3 + 4."""
    layers = [("img_mlp.0", 1, 4), ("img_mlp.2", 4, 1)]
    named: list[Layer] = [(f"diffusion_model.double_blocks.0.{name}", i * W, o * W) for name, i, o in layers]
    named += [
        ("diffusion_model.single_blocks.0.linear1", W, 7 * W),
        ("diffusion_model.single_blocks.0.linear2", 5 * W, W),
    ]
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state_of(named, False)))
    assert {change.module.partition(".0.")[2] for change in adapter.changes} == {
        *("ff.net.0.proj", "ff.net.2", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out"),
    }


@pytest.mark.parametrize(
    ("prefix", "down", "up"),
    [
        ("base_model.model.", "lora_A", "lora_B"),
        ("transformer.", "lora_A", "lora_B"),
        ("diffusion_model.", "lora_A", "lora_B"),
        ("lora_unet_", "lora_down", "lora_up"),
    ],
)
@pytest.mark.parametrize(
    ("block", "beside", "named"),
    [
        ("transformer_blocks.0.attn.to_q", "img_in", "img_in"),  # Qwen-Image
        ("transformer_blocks.0.img_mlp.net.2", "txt_in", "txt_in"),
        ("double_stream_blocks.0.block.attn1.to_q", "final_layer.linear", "final_layer.linear"),  # HiDream
        ("double_blocks.0.img_attn.proj", "img_in", "x_embedder"),  # Flux
        ("single_blocks.0.linear2", "final_layer.linear", "proj_out"),
    ],
)
def test_names_outside_blocks_are_of_the_model_the_blocks_are_of(
    tmp_path: Path, prefix: str, down: str, up: str, block: str, beside: str, named: str
) -> None:
    state = {}
    for name in (block, beside):
        stem = prefix + (name.replace(".", "_") if prefix == "lora_unet_" else name)
        state |= {f"{stem}.{down}.weight": np.ones((2, W), np.float32), f"{stem}.{up}.weight": np.ones((W, 2))}
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", {k: v.astype(np.float32) for k, v in state.items()}))
    (change,) = (c for c in adapter.changes if "blocks" not in c.module)
    assert (change.part, change.module) == ("transformer", named)


def test_a_peft_files_layers_are_all_of_one_model(tmp_path: Path) -> None:
    layers = square("base_model.model.", ("transformer_blocks.0.attn.to_q", "p_embedder.linear_1", "my_block.3.up"))
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state_of(layers, False)))
    assert adapter.parts == {"transformer": 3}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lora_controlnet", "a Control-LoRA"),
        ("ip_adapter.0.to_q_lora.down.weight", "an IP-Adapter"),
        ("image_proj.proj.weight", "an IP-Adapter"),
        ("optimizer.state.0.exp_avg", "an optimizer's state"),
    ],
)
def test_what_ends_like_an_adapter_and_is_none_is_named(tmp_path: Path, key: str, words: str) -> None:
    pair = {
        "input_blocks.1.1.proj_in.lora.up.weight": np.ones((4, 2)),
        "input_blocks.1.1.proj_in.down": np.ones((2, 4)),
    }
    state = {name: array.astype(np.float32) for name, array in {**pair, key: np.ones((2, 4))}.items()}
    with pytest.raises(BadLora, match=words):
        read_adapter(st_file(tmp_path / "x.safetensors", state))


T5, CLIP = "encoder_block_0_layer_0_SelfAttention_q", "text_model_encoder_layers_0_mlp_fc1"
DOTTED_T5 = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.mark.parametrize(
    ("stems", "parts"),
    [
        (("lora_unet_single_blocks_0_linear2", f"lora_te1_{CLIP}", f"lora_te3_{T5}"), {"text_encoder_2"}),
        (("lora_unet_double_blocks_0_img_attn_proj", f"lora_te3_{T5}"), {"text_encoder_2"}),
        (
            ("lora_unet_double_blocks_0_img_attn_proj", f"text_encoders.t5xxl.transformer.{DOTTED_T5}"),
            {"text_encoder_2"},
        ),
        (("lora_unet_joint_blocks_0_x_block_attn_proj", f"lora_te3_{T5}"), {"text_encoder_3"}),
        (
            ("lora_unet_single_blocks_0_linear2", f"lora_te2_{CLIP}", f"lora_te3_{T5}"),
            {"text_encoder_2", "text_encoder_3"},
        ),
    ],
)
def test_a_t5_is_the_encoder_its_model_has_it_as(tmp_path: Path, stems: tuple[str, ...], parts: set[str]) -> None:
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state_of(square("", stems), True)))
    assert set(adapter.parts) - {"text_encoder", "transformer"} == parts


def test_a_t5_of_flux_survives_kohyas_form(tmp_path: Path) -> None:
    stems = ("lora_transformer_single_transformer_blocks_0_proj_out", f"lora_te1_{CLIP}", f"lora_te3_{T5}")
    lora = read_lora(st_file(tmp_path / "x.safetensors", state_of(square("", stems), True)))
    write_lora(tmp_path / "y.safetensors", lora, fmt="kohya")
    assert any(key.startswith("lora_te3_encoder_block") for key in read_header(tmp_path / "y.safetensors").entries)
    assert [one.part for one in read_lora(tmp_path / "y.safetensors").beside] == ["text_encoder", "text_encoder_2"]


def test_names_of_sd3_outside_its_blocks(tmp_path: Path) -> None:
    """As diffusers' conversion of the model itself has them: it converts no LoRA of these."""
    tops = ("x_embedder_proj", "t_embedder_mlp_0", "y_embedder_mlp_2", "context_embedder", "final_layer_linear")
    layers = flat(square("", ("joint_blocks_0_x_block_attn_proj", *tops)))
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state_of(layers, True)))
    assert {c.module for c in adapter.changes} == {
        *("transformer_blocks.0.attn.to_out.0", "pos_embed.proj", "context_embedder", "proj_out"),
        *("time_text_embed.timestep_embedder.linear_1", "time_text_embed.text_embedder.linear_2"),
    }


@pytest.mark.parametrize(("width", "hint"), [(768, "sd-1"), (1024, "sd-2"), (2048, "sdxl"), (512, None)])
def test_a_unet_is_known_by_the_prompt_it_reads(tmp_path: Path, width: int, hint: str | None) -> None:
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_{}"
    state = state_of([(stem.format("k"), width, 8), (stem.format("q"), 8, 8)], True)
    assert read_adapter(st_file(tmp_path / "x.safetensors", state)).told.base_hint == hint
    named = {"ss_sd_model_name": "acme/base"}
    assert read_adapter(st_file(tmp_path / "y.safetensors", state, named)).told.base_hint is None


def test_a_pipelines_folder_is_a_base_model_only_where_it_lies(tmp_path: Path) -> None:
    """Trained from a folder of this machine: the base model is at hand. From one of another machine: a hint."""
    pipeline = tmp_path / "models" / "my-faces"
    pipeline.mkdir(parents=True)
    factors = {("unet.mid", "A"): np.ones((1, 4), np.float32), ("unet.mid", "B"): np.ones((4, 1), np.float32)}
    write_lora(tmp_path / "lora", factors, 1.0, fmt="peft", base_model=str(pipeline))
    adapter = read_adapter(tmp_path / "lora")
    assert (adapter.base_model, adapter.told.base_hint) == (None, "my-faces")
    assert [read_lora(tmp_path / "lora").base_hint for _ in range(2)] == [
        "my-faces"
    ] * 2  # of the second it is remembered
    (pipeline / "model_index.json").write_text("{}")
    assert read_adapter(tmp_path / "lora").base_model == str(pipeline)
    assert read_lora(tmp_path / "lora").base_model == str(pipeline)


HUNYUAN_DIT = {
    "blocks.0.attn1.Wqkv": (3, ("blocks.0.attn1.to_q", "blocks.0.attn1.to_k", "blocks.0.attn1.to_v")),
    "blocks.0.attn1.out_proj": (1, ("blocks.0.attn1.to_out.0",)),
    "blocks.0.attn2.q_proj": (1, ("blocks.0.attn2.to_q",)),
    "blocks.0.attn2.kv_proj": (2, ("blocks.0.attn2.to_k", "blocks.0.attn2.to_v")),
    "blocks.0.mlp.fc1": (4, ("blocks.0.ff.net.0.proj",)),
    "blocks.0.default_modulation.1": (1, ("blocks.0.norm1.linear",)),
    "blocks.21.skip_linear": (1, ("blocks.21.skip_linear",)),
}
"""Rows in widths, and diffusers' layers, which its checkpoint conversion cuts the fused ones into evenly."""


@pytest.mark.parametrize("prefix", ["lora_unet_", "base_model.model.", "transformer."])
def test_hunyuan_dit_is_read_by_the_names_of_its_original_code(tmp_path: Path, prefix: str) -> None:
    kohya = prefix == "lora_unet_"
    layers = [(prefix + (n.replace(".", "_") if kohya else n), W, rows * W) for n, (rows, _) in HUNYUAN_DIT.items()]
    state = state_of(layers, kohya)
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    found = {change.module: change.delta() for change in adapter.changes}
    assert {change.part for change in adapter.changes} == {"transformer"}
    down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    wanted = {}
    for (stem, _, _), (_, modules) in zip(layers, HUNYUAN_DIT.values(), strict=True):
        b, a = (state[f"{stem}.{x}.weight"].astype(np.float64) for x in (up, down))
        wanted |= dict(zip(modules, np.split((2.0 if kohya else 1.0) * (b @ a), len(modules)), strict=True))
    assert set(found) == set(wanted)
    for module, delta in wanted.items():
        assert np.abs(found[module] - delta).max() <= 1e-6 * np.abs(delta).max()


def test_another_models_layers_named_alike_stay_as_they_are(tmp_path: Path) -> None:
    state = state_of([("lora_unet_blocks_0_mlp_fc1", W, W), ("lora_unet_blocks_0_attn_kvq", W, 3 * W)], True)
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    assert {change.module for change in adapter.changes} == {
        "blocks.0.mlp.fc1",
        "lora_unet_blocks_0_attn_kvq",
    }
