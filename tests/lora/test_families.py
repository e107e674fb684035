"""Names of models' own code that only the file as a whole tells: the layers and ΔW that diffusers' conversions make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lora.loras import st_file
from tests.lora.test_conversions import FLUX2, Layer, W, flat, square, state_of
from w2w_registry.lora import read_adapter
from w2w_registry.lora.formats import read_keys

conversions = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
checkpoints = pytest.importorskip("diffusers.loaders.single_file_utils")
torch = pytest.importorskip("torch")

DM = "diffusion_model."
KREA = square(
    DM,
    (
        *(f"blocks.1.attn.{x}" for x in ("wq", "wk", "wv", "wo", "gate")),
        *(f"blocks.0.mlp.{x}" for x in ("gate", "up", "down")),
        *("first", "last.linear", "tmlp.0", "tmlp.2", "tproj.1", "txtmlp.1", "txtmlp.3", "txtfusion.projector"),
        *("txtfusion.layerwise_blocks.0.attn.wq", "txtfusion.refiner_blocks.1.mlp.up"),
    ),
)
IDEOGRAM = [
    (f"{DM}layers.0.{name}", W, rows * W)
    for name, rows in (
        *(("attention.qkv", 3), ("attention.o", 1), ("adaln_modulation", 1)),
        *((f"feed_forward.w{n}", 1) for n in (1, 2, 3)),
    )
]
H3 = [
    (f"{DM}{block}.{name}", i * W, o * W)
    for block in ("blocks.0", "token_refiner.blocks.0")
    for name, i, o in (("attn.qkv_proj", 1, 3), ("attn.out_proj", 1, 1), ("mlp.fc1", 1, 8), ("mlp.fc2", 4, 1))
] + square(
    DM,
    (
        *("blocks.0.adaln_proj.linear", "video_patch_proj", "audio_patch_proj", "condition_proj"),
        *("time_embedder.proj_in", "time_embedder.proj_out", "final_layer.video_out", "final_layer.audio_out"),
    ),
)
LTX2 = square(
    DM,
    (
        *("patchify_proj", "audio_patchify_proj", "adaln_single.linear", "audio_adaln_single.linear"),
        *("adaln_single.emb.timestep_embedder.linear_1", "av_ca_video_scale_shift_adaln_single.linear"),
        *("av_ca_a2v_gate_adaln_single.linear", "transformer_blocks.0.audio_attn1.to_q"),
        *("transformer_blocks.0.attn1.to_q", "transformer_blocks.0.video_to_audio_attn.to_out.0"),
    ),
)
FLUX3 = square(
    DM,
    (
        *("content_mode_blocks.0.q_proj", "single_blocks.0.k_proj", "single_blocks.0.v_proj"),
        *("single_blocks.0.attn_out", "single_blocks.0.mlp_in", "single_blocks.0.mlp_out"),
    ),
)
ANIMA = square(
    DM,
    (
        *("blocks.0.self_attn.q_proj", "final_layer.adaln_modulation.1", "t_embedder.1.linear_1", "x_embedder.proj.1"),
        *("llm_adapter.blocks.0.self_attn.q_proj", "llm_adapter.blocks.0.mlp.0"),
    ),
)
ACE_STEP = square(
    "base_model.model.",
    tuple(f"layers.0.{of}_attn.{x}_proj" for of in ("self", "cross") for x in "qkvo"),
)
BY_HEADS = [
    ("blocks.0.attn.qkv_proj", 12, 768),
    ("token_refiner.blocks.0.attn.qkv_proj", 12, 384),
    ("blocks.0.mlp.fc1", 12, 24),
]
KOHYA_FLUX2 = flat([*[one for one in FLUX2 if "modulation" not in one[0]], *square(DM, ("img_in", "time_in.in_layer"))])
LORAS: dict[str, tuple[list[Layer], str, bool]] = {
    "krea 2": (KREA, "krea2", False),
    "krea 2, by ai-toolkit": ([(n.replace(DM, "base_model.model."), i, o) for n, i, o in KREA], "krea2", False),
    "ideogram 4": (IDEOGRAM, "ideogram4", False),
    "minimax h3": (H3, "minimax_h3", False),
    "minimax h3, bare": ([(n.removeprefix(DM), i, o) for n, i, o in H3], "minimax_h3", False),
    "minimax h3, kohya": (flat(H3), "minimax_h3", True),
    "ace-step": (ACE_STEP, "ace_step", False),
    "ltx 2": (LTX2, "ltx2", False),
    "flux 3": (FLUX3, "flux3", False),
    "anima": (ANIMA, "anima", False),
    "flux 2, kohya": (KOHYA_FLUX2, "kohya_flux2", True),
}


def deltas(path: Path) -> dict[str, np.ndarray]:
    found = {}
    for change in read_adapter(path).changes:
        delta = change.delta()
        assert delta is not None
        found[f"{change.part}.{change.module}"] = delta
    return found


def same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for module, delta in wanted.items():
        assert np.abs(found[module] - delta).max() <= 1e-6 * np.abs(delta).max(), module


@pytest.mark.parametrize("case", LORAS)
def test_the_layers_that_diffusers_makes_of_a_lora(tmp_path: Path, case: str) -> None:
    layers, name, kohya = LORAS[case]
    function = (
        f"_convert_{name}_lora_to_diffusers" if "kohya" in name else f"_convert_non_diffusers_{name}_lora_to_diffusers"
    )
    state = state_of(layers, kohya)
    converted: dict[str, Any] = getattr(conversions, function)({k: torch.from_numpy(v) for k, v in state.items()})
    wanted = {
        key.partition(".lora_A.")[0]: (converted[key.replace("_A.", "_B.")].double() @ tensor.double()).numpy()
        for key, tensor in converted.items()
        if ".lora_A." in key
    }
    same(deltas(st_file(tmp_path / "x.safetensors", state)), wanted)


def test_h3_by_diffsynth_has_its_heads_one_after_another(tmp_path: Path) -> None:
    state = {
        name.replace(".weight", ".default.weight"): array for name, array in state_of(BY_HEADS, False, rank=3).items()
    }
    convert = conversions._convert_non_diffusers_minimax_h3_lora_to_diffusers
    made: dict[str, Any] = convert({k: torch.from_numpy(v) for k, v in state.items()})
    wanted = {
        key.partition(".lora_A.")[0]: (made[key.replace("_A.", "_B.")].double() @ tensor.double()).numpy()
        for key, tensor in made.items()
        if ".lora_A." in key
    }
    assert len(wanted) == 7
    same(deltas(st_file(tmp_path / "x.safetensors", state)), wanted)


@pytest.mark.parametrize("pieces", [2, 6])
def test_the_modulation_of_sd3s_text_is_turned_in_its_last_block_alone(tmp_path: Path, pieces: int) -> None:
    """Which gives two pieces, where the other blocks' give six."""
    name = "lora_unet_joint_blocks_3_context_block_adaLN_modulation_1"
    state = state_of([(name, W, pieces * W)], True)
    whole = 2.0 * state[f"{name}.lora_up.weight"].astype(float) @ state[f"{name}.lora_down.weight"]
    turned = checkpoints.swap_scale_shift(torch.from_numpy(whole), dim=None).numpy() if pieces == 2 else whole
    same(
        deltas(st_file(tmp_path / "x.safetensors", state)),
        {"transformer.transformer_blocks.3.norm1_context.linear": turned},
    )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("double_blocks.0.img_attn_q", "transformer_blocks.0.attn.to_q"),  # HunyuanImage, where nothing is fused
        ("double_blocks.0.txt_attn_v", "transformer_blocks.0.attn.add_v_proj"),
        ("single_blocks.4.linear1_k", "single_transformer_blocks.4.attn.to_k"),
        ("single_blocks.4.linear1_mlp", "single_transformer_blocks.4.proj_mlp"),
        ("single_blocks.4.linear2.fc", "single_transformer_blocks.4.proj_out"),
        ("transformer.layers.0.attention.query_key_value", "transformer.layers.0.attention.query_key_value"),
    ],
)
def test_a_denoisers_own_code_is_no_language_models(tmp_path: Path, name: str, place: str) -> None:
    found = read_adapter(st_file(tmp_path / "x.safetensors", state_of([(f"diffusion_model.{name}", W, W)], False)))
    assert [(c.part, c.module) for c in found.changes] == [("transformer", place)]


@pytest.mark.parametrize("prefix", ["diffusion_model.decoder.", "base_model.model.decoder.", "decoder.", "lora_unet_"])
def test_ace_step_is_known_under_each_tools_name(tmp_path: Path, prefix: str) -> None:
    kohya = prefix == "lora_unet_"
    layers = [(name.replace("base_model.model.", prefix), i, o) for name, i, o in ACE_STEP]
    layers = flat(layers) if kohya else layers
    found = read_adapter(st_file(tmp_path / "x.safetensors", state_of(layers, kohya)))
    assert found.parts == {"transformer": 8}
    assert {c.module for c in found.changes} >= {"layers.0.self_attn.to_q", "layers.0.cross_attn.to_out.0"}


AURA = [
    *((f"double_layers.0.attn.w{n}{x}", 1, 1) for n in (1, 2) for x in "qkvo"),
    *((f"double_layers.0.mlp{x}.{y}", 1, 1) for x in "XC" for y in ("c_fc1", "c_fc2", "c_proj")),
    *((f"double_layers.0.mod{x}.1", 1, 6) for x in "XC"),
    *((f"single_layers.0.attn.w1{x}", 1, 1) for x in "qkvo"),
    *((f"single_layers.0.mlp.{y}", 1, 1) for y in ("c_fc1", "c_fc2", "c_proj")),
    *(("single_layers.0.modCX.1", 1, 6), ("modF.1", 1, 2), ("final_linear", 1, 1), ("cond_seq_linear", 1, 1)),
    *(("t_embedder.mlp.0", 1, 1), ("t_embedder.mlp.2", 1, 1), ("init_x_linear", 1, 1)),
]
SANA = [
    *(("blocks.0.attn.qkv", 1, 3), ("blocks.0.attn.proj", 1, 1), ("blocks.0.cross_attn.q_linear", 1, 1)),
    *(("blocks.0.cross_attn.kv_linear", 1, 2), ("blocks.0.cross_attn.proj", 1, 1)),
    *((f"blocks.0.mlp.{x}_conv.conv", 1, 1) for x in ("inverted", "depth", "point")),
    *(("x_embedder.proj", 1, 1), ("t_embedder.mlp.0", 1, 1), ("t_embedder.mlp.2", 1, 1), ("t_block.1", 1, 6)),
    *(("y_embedder.y_proj.fc1", 1, 1), ("y_embedder.y_proj.fc2", 1, 1), ("final_layer.linear", 1, 1)),
]
MOCHI = [
    *((f"blocks.{n}.attn.qkv_{x}", 1, 3) for n in range(48) for x in "xy"),
    *((f"blocks.{n}.attn.proj_{x}", 1, 1) for n in range(48) for x in "xy"[: 2 if n < 47 else 1]),
    *((f"blocks.{n}.mlp_{x}.w1", 1, 4) for n in range(48) for x in "xy"[: 2 if n < 47 else 1]),
    *((f"blocks.{n}.mlp_{x}.w2", 2, 1) for n in range(48) for x in "xy"[: 2 if n < 47 else 1]),
    *((f"blocks.{n}.mod_{x}", 1, 1) for n in range(48) for x in "xy"[: 2 if n < 47 else 1]),
    *((f"t5_y_embedder.{x}", 1, 1) for x in ("to_kv", "to_q", "to_out")),
    *(("x_embedder.proj", 1, 1), ("t_embedder.mlp.0", 1, 1), ("t_embedder.mlp.2", 1, 1), ("t5_yproj", 1, 1)),
    *(("final_layer.mod", 1, 2), ("final_layer.linear", 1, 1)),
]
HUNYUAN = [
    ("txt_in.individual_token_refiner.blocks.0.self_attn_qkv", 1, 3),
    *((f"txt_in.individual_token_refiner.blocks.0.{x}", 1, 1) for x in ("self_attn_proj", "mlp.fc1", "mlp.fc2")),
    *(("txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1", 1, 2), ("txt_in.input_embedder", 1, 1)),
    *(("txt_in.t_embedder.mlp.0", 1, 1), ("txt_in.t_embedder.mlp.2", 1, 1), ("txt_in.c_embedder.linear_1", 1, 1)),
    *(("double_blocks.0.img_attn_qkv", 1, 3), ("final_layer.adaLN_modulation.1", 1, 2)),
]
CHECKPOINTS = {
    "auraflow": (AURA, "auraflow_transformer_checkpoint"),
    "sana": (SANA, "sana_transformer"),
    "mochi": (MOCHI, "mochi_transformer_checkpoint"),
    "hunyuan video": (HUNYUAN, "hunyuan_video_transformer"),
}


class _WithTheRest(dict[str, Any]):
    """A checkpoint in which what no LoRA changes lies too."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key) if key in self else torch.zeros(6 * W)


@pytest.mark.parametrize("prefix", [DM, "lora_unet_", "lora_transformer_", "base_model.model.", "transformer."])
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_the_layers_that_diffusers_makes_of_a_checkpoint(tmp_path: Path, case: str, prefix: str) -> None:
    names, function = CHECKPOINTS[case]
    kohya = prefix.startswith("lora_")
    layers = [(prefix + (n.replace(".", "_") if kohya else n), i * W, o * W) for n, i, o in names]
    state = state_of(layers, kohya)
    down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    whole = {
        f"{name}.weight": torch.from_numpy(
            (2.0 if kohya else 1.0)
            * state[f"{layer}.{up}.weight"].astype(np.float64)
            @ state[f"{layer}.{down}.weight"].astype(np.float64)
        )
        for (name, _, _), (layer, _, _) in zip(names, layers, strict=True)
    }
    made = getattr(checkpoints, f"convert_{function}_to_diffusers")(_WithTheRest(whole))
    wanted = {
        f"transformer.{key.removesuffix('.weight')}": tensor.numpy()
        for key, tensor in made.items()
        if key.endswith(".weight") and tensor is not None and tensor.ndim == 2 and tensor.any()
    }
    same(deltas(st_file(tmp_path / "x.safetensors", state)), wanted)


@pytest.mark.parametrize("prefix", ["lora_transformer_", "lora_unet_", "lycoris_"])
def test_flattened_names_of_diffusers_models_get_their_dots_back(prefix: str) -> None:
    """Every linear layer and convolution of models whose names share words."""
    from diffusers import AuraFlowTransformer2DModel as Aura
    from diffusers import CogVideoXTransformer3DModel as Cog
    from diffusers import MochiTransformer3DModel as Mochi
    from diffusers import PixArtTransformer2DModel as PixArt
    from diffusers import SanaTransformer2DModel as Sana
    from diffusers import StableCascadeUNet as Cascade
    from diffusers import WanTransformer3DModel as Wan

    with torch.device("meta"):
        models = [
            Aura(num_mmdit_layers=1, num_single_dit_layers=1),
            *(kind(num_layers=1) for kind in (Cog, Mochi, PixArt, Sana, Wan)),
            Cascade(down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), clip_text_in_channels=8),
        ]
    for model in models:
        layers = [n for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
        names = {f"{prefix}{layer.replace('.', '_')}.lora_down.weight": layer for layer in layers}
        keys, _, unknown = read_keys(names)
        assert not unknown
        assert {key.part for key in keys.values()} == {"unet" if isinstance(model, Cascade) else "transformer"}
        assert {name: key.targets[0].module for name, key in keys.items()} == names


def test_a_layer_given_fused_and_in_parts_counts_once(tmp_path: Path) -> None:
    parts = square(f"{DM}layers.0.attention.", ("to_q", "to_k", "to_v"))
    state = state_of([*parts, (f"{DM}layers.0.attention.qkv", W, 3 * W)], False)
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    assert len(adapter.changes) == 3
    assert "1 fused layer besides their parts" in adapter.remarks[0]
    alone = read_adapter(st_file(tmp_path / "y.safetensors", state_of(parts, False)))
    assert [c.delta().tolist() for c in adapter.changes] == [c.delta().tolist() for c in alone.changes]  # type: ignore[union-attr]
