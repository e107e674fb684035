"""Every kind of adapter in every spelling: ΔW equal to what LyCORIS, PEFT and diffusers make of the file, or said to be
unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lora.loras import st_file
from w2w_registry.errors import BadLora
from w2w_registry.lora import Adapter, read_adapter, read_lora

torch = pytest.importorskip("torch")

CLOSE = {"rtol": 1e-6, "atol": 0}
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def relative(found: np.ndarray | None, wanted: Any) -> float:
    assert found is not None
    wanted = np.asarray(wanted, np.float64).reshape(len(wanted), -1)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def only(adapter: Adapter, module: str | None = None) -> Any:
    found = [c for c in adapter.changes if module is None or c.module == module]
    assert len(found) == 1
    return found[0]


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -- LyCORIS ------------------------------------------------------------------------------------
LAYERS = {
    "linear": ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", lambda: torch.nn.Linear(12, 16)),
    "conv": ("lora_unet_mid_block_resnets_0_conv1", lambda: torch.nn.Conv2d(8, 12, 3, padding=1)),
    "pointwise": ("lora_unet_mid_block_attentions_0_proj_in", lambda: torch.nn.Conv2d(8, 12, 1)),
}


def test_a_dylora_file_is_the_lora_of_its_whole_rank(tmp_path: Path) -> None:
    """Its module draws another rank each time it is asked for a weight; the file has them all and does not say that it
    is one, so that LyCORIS itself loads it as a plain LoRA."""
    DyLoraModule = pytest.importorskip("lycoris.modules.dylora").DyLoraModule
    LoConModule = pytest.importorskip("lycoris.modules.locon").LoConModule

    for name, base in LAYERS.values():
        module = DyLoraModule(name, base(), 1.0, 4, 2.0, block_size=2)
        for parameter in (*module.up_list, *module.down_list):
            torch.nn.init.normal_(parameter)
        state = {k: v.detach() for k, v in module.custom_state_dict().items()}
        up, down = state["lora_up.weight"], state["lora_down.weight"]
        given = (up.reshape(*up.shape[:2], *(1,) * (down.ndim - 2)), down, None, state["alpha"], None)
        loaded = LoConModule.make_module_from_state_dict(name, base(), *given)
        wanted = loaded.get_diff_weight(1.0)[0].detach().double()
        named = {f"{name}.{k}": np.asarray(v, np.float32) for k, v in state.items()}
        change = only(read_adapter(st_file(tmp_path / "x.safetensors", named)))
        assert (change.kind, change.rank) == ("LoRA", 4)
        assert relative(change.delta(), wanted) < 1e-6


@quick
@given(
    algorithm=st.sampled_from(["LoConModule", "LohaModule", "LokrModule"]),
    layer=st.sampled_from(sorted(LAYERS)),
    rank=st.integers(1, 4),
    alpha=st.sampled_from([1.0, 4.0, 0.5, 27.0]),
    tucker=st.booleans(),
    rslora=st.booleans(),
    factor=st.sampled_from([-1, 2, 4]),
    seed=st.integers(0, 3),
)
def test_lycoris(
    tmp_path: Path,
    algorithm: str,
    layer: str,
    rank: int,
    alpha: float,
    tucker: bool,
    rslora: bool,
    factor: int,
    seed: int,
) -> None:
    modules = pytest.importorskip("lycoris.modules.locon"), pytest.importorskip("lycoris.modules.loha")
    modules = (*modules, pytest.importorskip("lycoris.modules.lokr"))
    make = next(getattr(m, algorithm) for m in modules if hasattr(m, algorithm))
    name, base = LAYERS[layer]
    torch.manual_seed(seed)
    module = make(
        name,
        base(),
        1.0,
        rank,
        alpha,
        use_tucker=tucker,
        rs_lora=rslora,
        **({"factor": factor} if algorithm == "LokrModule" else {}),
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    state = (
        {f"{name}.{k}": v.detach().numpy() for k, v in module.custom_state_dict().items()}
        if hasattr(module, "custom_state_dict") and module.custom_state_dict()
        else {}
    )
    state = state or {
        f"{name}.{k}": v.detach().numpy() for k, v in module.state_dict().items() if "org_module" not in k
    }
    # What its forward pass adds. (LyCORIS' get_diff_weight multiplies LoHa and LoKr by their scale a second time.)
    added = module.get_weight(module.shape) if hasattr(module, "get_weight") else module.get_diff_weight(1.0)[0]
    whole = {f"{name}.lokr_w1", f"{name}.lokr_w2"} <= set(state)
    # The rank of two full matrices is not in the file: LyCORIS' own loader then takes the scale 1.
    wanted = added.detach() / (module.scale if whole else 1.0)
    change = only(read_adapter(st_file(tmp_path / "x.safetensors", state)))
    assert change.exact
    assert relative(change.delta(), wanted) < 1e-6
    factors = change.factors()
    assert factors is not None
    assert factors[0].shape[1] == factors[1].shape[0]


def test_lycoris_kinds_whose_change_depends_on_the_base_model(tmp_path: Path) -> None:
    name = LAYERS["linear"][0]
    lora = {
        f"{name}.lora_down.weight": rand(2, 12),
        f"{name}.lora_up.weight": rand(16, 2),
        f"{name}.alpha": rand(1) ** 2,
    }
    for extra, kind in (
        ({**lora, f"{name}.dora_scale": rand(16, 1)}, "DoRA"),
        ({f"{name}.oft_blocks": rand(4, 4, 4), f"{name}.alpha": np.ones(1, np.float32)}, "OFT"),
        ({f"{name}.weight": rand(16), f"{name}.on_input": np.zeros(1, np.float32)}, "IA3"),
        ({f"{name}.{x}.weight": rand(2, 12) for x in ("a1", "a2", "b1", "b2")}, "GLoRA"),
    ):
        adapter = read_adapter(st_file(tmp_path / f"{kind}.safetensors", extra))
        assert (adapter.kind, adapter.exact, adapter.changes[0].delta()) == (kind, False, None)


def test_differences_norms_and_biases(tmp_path: Path) -> None:
    conv, norm = "lora_unet_mid_block_resnets_0_conv1", "lora_unet_mid_block_resnets_0_norm1"
    state = {
        f"{conv}.diff": rand(12, 8, 3, 3),
        f"{conv}.diff_b": rand(12),
        f"{norm}.w_norm": rand(8),
        f"{norm}.b_norm": rand(8),
    }
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    assert adapter.exact
    found = {(c.name, c.kind): c.delta() for c in adapter.changes}
    assert relative(found[conv, "full"], state[f"{conv}.diff"]) == 0
    assert relative(found[conv, "bias"], state[f"{conv}.diff_b"]) == 0
    assert relative(found[norm, "norm"], state[f"{norm}.w_norm"]) == 0
    assert relative(found[norm, "bias"], state[f"{norm}.b_norm"]) == 0


# -- PEFT -----------------------------------------------------------------------------------------
class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Layers under names of a UNet and of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.down_blocks = torch.nn.ModuleList(
            [torch.nn.ModuleDict({"to_q": torch.nn.Linear(12, 16), "to_v": torch.nn.Linear(12, 16)})]
        )
        self.conv_in = torch.nn.Conv2d(4, 8, 3)


def peft_model(make: Any, **options: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(Net(), getattr(peft, make)(target_modules=["to_q", "to_v", "conv_in"], **options))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            torch.nn.init.normal_(parameter)
    return model


def deltas(model: Any) -> dict[str, Any]:
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


@quick
@given(
    make=st.sampled_from(["LoraConfig", "LoHaConfig", "LoKrConfig"]),
    rank=st.integers(1, 4),
    alpha=st.sampled_from([1, 16, 27]),
    effective=st.booleans(),
    rslora=st.booleans(),
    ranks=st.sampled_from([{}, {"to_q": 3}, {r"down_blocks\.0\.(to_q|nothing)": 2}, {"conv_in": 2, "to_v": 1}]),
    alphas=st.sampled_from([{}, {"to_q": 5}, {r".*to_[qk]": 3, "to_q": 8}, {"^conv_in": 2}]),
)
def test_peft(
    tmp_path: Path, make: str, rank: int, alpha: int, effective: bool, rslora: bool, ranks: Any, alphas: Any
) -> None:
    options: dict[str, Any] = {"r": rank, "rank_pattern": ranks, "alpha_pattern": alphas}
    if make == "LoraConfig":
        options |= {"lora_alpha": alpha, "use_rslora": rslora}
    else:
        options |= {"alpha": alpha, "use_effective_conv2d": effective}
    model = peft_model(make, **options)
    model.save_pretrained(tmp_path / "one")
    adapter = read_adapter(tmp_path / "one")
    assert adapter.exact
    wanted = deltas(model)
    assert {c.module for c in adapter.changes} == set(wanted)
    for change in adapter.changes:
        assert relative(change.delta(), wanted[change.module]) < 1e-6


def test_peft_dora_and_biases(tmp_path: Path) -> None:
    model = peft_model("LoraConfig", r=2, lora_alpha=8, use_dora=True)
    model.save_pretrained(tmp_path / "dora")
    adapter = read_adapter(tmp_path / "dora")
    assert (adapter.kind, adapter.exact) == ("DoRA", False)
    model = peft_model("LoraConfig", r=2, lora_alpha=8, lora_bias=True)
    model.save_pretrained(tmp_path / "bias")
    adapter = read_adapter(tmp_path / "bias")
    assert (adapter.kind, adapter.exact) == ("LoRA", True)
    layer = model.base_model.model.conv_in
    bias = next(c for c in adapter.changes if c.module == "conv_in" and c.kind == "bias")
    assert relative(bias.delta(), layer.lora_B["default"].bias.detach() * layer.scaling["default"]) < 1e-6


def test_a_low_level_dump_takes_its_alpha_from_the_config_beside_it(tmp_path: Path) -> None:
    model = peft_model("LoraConfig", r=4, lora_alpha=16)
    peft = pytest.importorskip("peft")
    model.save_pretrained(tmp_path / "one")
    state = {k.removeprefix("base_model.model."): v for k, v in peft.get_peft_model_state_dict(model).items()}
    st_file(tmp_path / "one" / "adapter_model.safetensors", {k: v.detach().numpy() for k, v in state.items()})
    adapter = read_adapter(tmp_path / "one")
    wanted = deltas(model)
    assert adapter.files[1].name == "adapter_config.json"
    for change in adapter.changes:
        assert relative(change.delta(), wanted[change.module]) < 1e-6
    # The file by itself, named: the config is still its own.
    assert read_adapter(tmp_path / "one" / "adapter_model.safetensors").digest == adapter.digest


def test_an_adapters_own_name_is_no_kind(tmp_path: Path) -> None:
    keys = {
        "base_model.model.down_blocks.0.to_q.lora_A.soft_light.weight": rand(2, 12),
        "base_model.model.down_blocks.0.to_q.lora_B.soft_light.weight": rand(16, 2),
    }
    assert read_lora(st_file(tmp_path / "x.safetensors", keys)).modules == ("down_blocks.0.to_q",)


# -- kohya, ComfyUI, cloneofsimo -------------------------------------------------------------------
QKV = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.int32])
def test_alpha_of_any_dtype(tmp_path: Path, dtype: Any) -> None:
    state = {
        f"{QKV}.lora_down.weight": rand(2, 12),
        f"{QKV}.lora_up.weight": rand(16, 2),
        f"{QKV}.alpha": np.asarray(4, dtype),
    }
    change = only(read_adapter(st_file(tmp_path / "x.safetensors", state)))
    assert (
        relative(change.delta(), 2 * state[f"{QKV}.lora_up.weight"].astype(float) @ state[f"{QKV}.lora_down.weight"])
        < 1e-12
    )


def test_linear_factors_written_as_convolutions(tmp_path: Path) -> None:
    flat = {f"{QKV}.lora_down.weight": rand(2, 12), f"{QKV}.lora_up.weight": rand(16, 2)}
    deep = {k: v[:, :, None, None] for k, v in flat.items()}
    one, two = (read_adapter(st_file(tmp_path / f"{i}.safetensors", s)) for i, s in enumerate((flat, deep)))
    assert one.digest == two.digest
    assert read_lora(tmp_path / "0.safetensors").layout() == read_lora(tmp_path / "1.safetensors").layout()


def test_alpha_on_some_layers_only_is_said(tmp_path: Path) -> None:
    other = QKV.replace("to_q", "to_v")
    state = {
        f"{n}.lora_{x}.weight": rand(*((2, 12) if x == "down" else (16, 2)))
        for n in (QKV, other)
        for x in ("down", "up")
    }
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", {**state, f"{QKV}.alpha": np.ones(1, np.float32)}))
    assert {c.name: c.scale for c in adapter.changes} == {QKV: 0.5, other: 1.0}
    assert adapter.remarks == (
        "it gives alpha for 1 of 2 layers; the others are taken at alpha = rank, where diffusers would take 1",
    )


MID, CLIP = "attentions.0.transformer_blocks", "text_model.encoder.layers"
SPELLINGS = {
    "text_encoder_1.text_model.encoder.layers.0.mlp.fc1": "text_encoder/text_model.encoder.layers.0.mlp.fc1",
    "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1": "text_encoder_2/text_model.encoder.layers.0.mlp.fc1",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": (
        "text_encoder/text_model.encoder.layers.0.mlp.fc1"
    ),
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q": (
        "text_encoder_3/encoder.block.0.layer.0.SelfAttention.q"
    ),
    "lora_unet_joint_blocks_0_x_block_adaLN_modulation_1": "transformer/transformer_blocks.0.norm1.linear",
    "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": (f"unet/down_blocks.1.{MID}.1.attn1.to_q"),
    "lora_unet_unet_down_blocks_0_attentions_0_proj_in": "unet/down_blocks.0.attentions.0.proj_in",
    "diffusion_model.input_blocks.4.1.transformer_blocks.1.attn1.to_q": (f"unet/down_blocks.1.{MID}.1.attn1.to_q"),
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora": (
        f"unet/mid_block.{MID}.0.attn1.to_out.0"
    ),
    "lora_te_text_model_encoder_layers_3_self_attn_q_proj": "text_encoder/text_model.encoder.layers.3.self_attn.q_proj",
    "lora_te1_text_model_encoder_layers_3_mlp_fc1": "text_encoder/text_model.encoder.layers.3.mlp.fc1",
    "lora_te2_text_model_encoder_layers_31_self_attn_out_proj": (f"text_encoder_2/{CLIP}.31.self_attn.out_proj"),
    "text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora": (f"text_encoder/{CLIP}.3.self_attn.q_proj"),
    "lora_unet_double_blocks_7_img_attn_proj": "transformer/transformer_blocks.7.attn.to_out.0",
    "diffusion_model.double_blocks.7.txt_mlp.2": "transformer/transformer_blocks.7.ff_context.net.2",
    "lora_unet_single_blocks_12_linear2": "transformer/single_transformer_blocks.12.proj_out",
    "transformer.single_transformer_blocks.12.proj_mlp": "transformer/single_transformer_blocks.12.proj_mlp",
    "lora_transformer_single_transformer_blocks_12_attn_to_k": "transformer/single_transformer_blocks.12.attn.to_k",
    "lora_unet_joint_blocks_3_context_block_mlp_fc1": "transformer/transformer_blocks.3.ff_context.net.0.proj",
    "transformer.transformer_blocks.3.attn.add_q_proj": "transformer/transformer_blocks.3.attn.add_q_proj",
    "diffusion_model.transformer_blocks.3.img_mlp.net.0.proj": "transformer/transformer_blocks.3.img_mlp.net.0.proj",
    "lycoris_transformer_blocks_3_img_mod_1": "transformer/transformer_blocks.3.img_mod.1",
    "lora_unet_blocks_3_self_attn_q": "transformer/blocks.3.attn1.to_q",
    "lora_unet_strange_3_self_attn_q": "model/lora_unet_strange_3_self_attn_q",
    "diffusion_model.blocks.3.cross_attn.k_img": "transformer/blocks.3.attn2.add_k_proj",
    "lora_unet_layers_3_attention_to_out_0": "transformer/layers.3.attention.to_out.0",
    "pipe.unet.mid_block.attentions.0.proj_in": "unet/mid_block.attentions.0.proj_in",
    "base_model.model.base_model.model.unet.conv_in": "unet/conv_in",
    "clip_g.text_model.encoder.layers.3.mlp.fc1": f"text_encoder_2/{CLIP}.3.mlp.fc1",
    "unet.mid_block._orig_mod.attentions.0._checkpoint_wrapped_module.proj_in": "unet/mid_block.attentions.0.proj_in",
    "_fsdp_wrapped_module.transformer_blocks.0._fsdp_wrapped_module.ff": "transformer/transformer_blocks.0.ff",
    "lora_te4_layers_0_self_attn_q_proj": "text_encoder_4/layers_0_self_attn_q_proj",
    "text_encoder_4.model.layers.0.self_attn.q_proj": "text_encoder_4/model.layers.0.self_attn.q_proj",
    "lora_prior_te_text_model_encoder_layers_3_mlp_fc1": "text_encoder/text_model.encoder.layers.3.mlp.fc1",
}


@pytest.mark.parametrize(("stem", "place"), SPELLINGS.items())
def test_spellings(tmp_path: Path, stem: str, place: str) -> None:
    old = stem.endswith("_lora")
    ends = ("down", "up") if old else ("lora_down", "lora_up")
    state = {f"{stem}.{ends[0]}.weight": rand(2, 12), f"{stem}.{ends[1]}.weight": rand(16, 2)}
    change = only(read_adapter(st_file(tmp_path / "x.safetensors", state)))
    assert f"{change.part}/{change.module}" == place
    assert (
        relative(change.delta(), state[f"{stem}.{ends[1]}.weight"].astype(float) @ state[f"{stem}.{ends[0]}.weight"])
        < 1e-12
    )


def test_fused_layers_of_flux_are_diffusers_layers(tmp_path: Path) -> None:
    """As diffusers' own conversion splits them."""
    hidden, rank = 12, 2
    state = {}
    for name, rows in {
        "double_blocks_0_img_attn_qkv": 3 * hidden,
        "double_blocks_0_txt_attn_qkv": 3 * hidden,
        "double_blocks_0_img_mod_lin": 6 * hidden,
        "single_blocks_0_linear1": 7 * hidden,
    }.items():
        state[f"lora_unet_{name}.lora_down.weight"] = rand(rank, hidden, seed=len(state))
        state[f"lora_unet_{name}.lora_up.weight"] = rand(rows, rank, seed=len(state))
        state[f"lora_unet_{name}.alpha"] = np.asarray(1.0, np.float32)
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers as convert

    theirs = {
        k: np.asarray(v) for k, v in convert({k: torch.tensor(v) for k, v in state.items() if "double" in k}).items()
    }
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    ours = {c.module: c.delta() for c in adapter.changes}
    modules = {k.removeprefix("transformer.").partition(".lora_")[0] for k in theirs}
    assert len(modules) == 7
    for module in modules:
        a, b = (theirs[f"transformer.{module}.lora_{x}.weight"].astype(float) for x in "AB")
        assert relative(ours[module], b @ a) < 1e-6
    # Their split of linear1 knows the width of the released model alone; ours takes it from the layer's input.
    up = 0.5 * state["lora_unet_single_blocks_0_linear1.lora_up.weight"].astype(float)
    whole = up @ state["lora_unet_single_blocks_0_linear1.lora_down.weight"]
    parts = [ours[f"single_transformer_blocks.0.{m}"] for m in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    assert [len(p) for p in parts if p is not None] == [hidden, hidden, hidden, 4 * hidden]
    assert relative(np.vstack([p for p in parts if p is not None]), whole) < 1e-12
    lora = read_lora(tmp_path / "x.safetensors")
    assert (lora.part, lora.layout().alpha) == ("transformer", 1.0)


def test_cloneofsimo(tmp_path: Path) -> None:
    state = {
        "unet:0:up": rand(16, 4),
        "unet:0:down": rand(4, 12),
        "text_encoder:0:up": rand(8, 4),
        "text_encoder:0:down": rand(4, 8),
    }
    metadata = {"unet": json.dumps(["CrossAttention"]), "unet:0:rank": "4"}
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state, metadata))
    assert (adapter.format, adapter.kind, adapter.exact, adapter.parts) == (
        "cloneofsimo",
        "LoRA",
        True,
        {"text_encoder": 1, "unet": 1},
    )
    change = next(c for c in adapter.changes if c.part == "unet")
    assert relative(change.delta(), state["unet:0:up"].astype(float) @ state["unet:0:down"]) < 1e-12


def test_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    state = {
        f"{QKV}.lora_down.weight": rand(2, 12),
        f"{QKV}.lora_up.weight": rand(16, 2),
        "bundle_emb.sks.string_to_param.*": rand(1, 12),
    }
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    assert adapter.unread == ("bundle_emb.sks.string_to_param.*",)
    assert not adapter.exact


def test_what_kohya_and_modelspec_say(tmp_path: Path) -> None:
    state = {f"{QKV}.lora_down.weight": rand(2, 12), f"{QKV}.lora_up.weight": rand(16, 2)}
    metadata = {
        "ss_sd_model_name": "realisticVisionV51.safetensors",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "Alice",
        "modelspec.license": "CC-BY-4.0",
        "ss_tag_frequency": json.dumps({"10_sks person": {"a": 1}}),
    }
    told = read_adapter(st_file(tmp_path / "x.safetensors", state, metadata)).told
    assert (told.base_model, told.base_hint, told.trigger) == (None, "realisticVisionV51", "sks person")
    assert told.facts["title"] == "Alice"
    assert told.facts["license"] == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("name", "base", "hint"),
    [
        ("runwayml/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5", None),
        ("/home/me/models/sd15", None, "sd15"),
        ("C:\\models\\flux1-dev", None, "flux1-dev"),
        ("./models/sdxl/", None, "sdxl"),
        ("models/sd/v1-5", None, "v1-5"),
        ("~/sd.ckpt", None, "sd"),
        ("/root/.cache/huggingface/hub/models--acme--sd-xl/snapshots/" + "0" * 40, "acme/sd-xl", None),
        ("https://huggingface.co/acme/sd-xl/blob/main/sd_xl.safetensors", "acme/sd-xl", None),
        ("flux1-dev-Q8_0.gguf", None, "flux1-dev-Q8_0"),
    ],
)
def test_a_place_on_somebodys_machine_is_no_models_id(
    tmp_path: Path, name: str, base: str | None, hint: str | None
) -> None:
    state = {f"{QKV}.lora_down.weight": rand(2, 12), f"{QKV}.lora_up.weight": rand(16, 2)}
    kohya = read_adapter(st_file(tmp_path / "x.safetensors", state, {"ss_sd_model_name": name}))
    layer = "base_model.model.mid_block.attentions.0.proj_in"
    pair = {f"{layer}.lora_A.weight": rand(2, 12), f"{layer}.lora_B.weight": rand(16, 2)}
    st_file(tmp_path / "one" / "adapter_model.safetensors", pair)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": name}
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps(config))
    for adapter in (kohya, read_adapter(tmp_path / "one")):
        assert (adapter.base_model, adapter.told.base_hint) == (base, hint)


def test_a_gpt2_adapter_is_refused_as_a_language_models(tmp_path: Path) -> None:
    for stem in ("base_model.model.transformer.h.0.attn.c_attn", "base_model.model.model.layers.0.self_attn.q_proj"):
        state = {f"{stem}.lora_A.weight": rand(2, 12), f"{stem}.lora_B.weight": rand(16, 2)}
        with pytest.raises(BadLora) as caught:
            read_adapter(st_file(tmp_path / "x.safetensors", state))
        assert caught.value.reason == "an adapter of a language model"


def pair(stem: str, a: str = "lora_A", b: str = "lora_B", rows: int = 16) -> dict[str, np.ndarray]:
    return {f"{stem}.{a}.weight": rand(2, 12), f"{stem}.{b}.weight": rand(rows, 2, seed=1)}


GIVEN: dict[str, dict[str, Any]] = {
    "OFT": {"r": 0, "oft_block_size": 4},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "IA3": {"feedforward_modules": []},
    "ADALORA": {"total_step": 10},
    "VBLORA": {"vector_length": 4, "num_vectors": 8},
    "FOURIERFT": {"n_frequency": 10},
    "WAVEFT": {"n_frequency": 10},
    "ROAD": {"group_size": 4},
    **{key: {"r": 2} for key in ("MISS", "SHIRA", "PSOFT")},
}
NOT_OF_PICTURES = {
    *("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"),
    *("SHADOW", "XLORA"),
}
"""Methods that PEFT has for language models alone."""


def test_every_method_of_peft_is_read_or_kept_as_what_it_is(tmp_path: Path) -> None:
    library = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")

    class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.to_q, self.to_v = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.down_blocks = torch.nn.ModuleList([Block()])

    methods = {str(getattr(kind, "value", kind)): make for kind, make in library.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    assert methods.keys() >= NOT_OF_PICTURES
    for name in sorted(methods.keys() - NOT_OF_PICTURES):
        config = methods[name](target_modules=["to_q", "to_v"], **GIVEN.get(name, {}))
        model = library.get_peft_model(Model(), config)
        for i, parameter in enumerate(p for p in model.parameters() if p.requires_grad and p.is_floating_point()):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        model.save_pretrained(tmp_path / name)
        adapter = read_adapter(tmp_path / name)
        assert adapter.kind.replace("-", "").upper() == name
        assert adapter.parts == ({"model": 1} if name == "UNILORA" else {"unet": 2}), name
        if adapter.exact:
            wanted = deltas(model)
            for change in adapter.changes:
                assert relative(change.delta(), wanted[change.module].double()) <= 1e-6
        assert adapter.exact == (name in ("LORA", "LOHA", "LOKR"))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"transformer_blocks.0.attn.to_qkv.lora_down": rand(12, 2)}, "converted for Nunchaku; add the file it was"),
        (
            {"lora_unet_x.lora_down.0.weight": rand(2, 12), "lora_unet_x.alpha": rand(1)},
            "lora_down.0.weight is no tensor of an adapter",
        ),
        (
            {"lora_unet_x.down_list.0": rand(1, 12), "lora_unet_x.alpha": rand(1)},
            "down_list.0 is no tensor of an adapter",
        ),
        ({"double_blocks.0.processor.q_loras.0.down.weight": rand(2, 12)}, "down.weight is no tensor of an adapter"),
        ({"mid_block.attn2.processor.to_k_custom_diffusion.weight": rand(3, 3)}, "weights of Custom Diffusion"),
    ],
)
def test_what_other_tools_keep_is_called_what_it_is(tmp_path: Path, state: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(BadLora, match=reason):
        read_adapter(st_file(tmp_path / "x.safetensors", state))


@pytest.mark.parametrize("rows", [12, 20])
def test_factors_that_are_turned_over_are_never_multiplied(tmp_path: Path, rows: int) -> None:
    """Of a square layer they could be: the product is a matrix of the rank's size."""
    stem = "transformer.transformer_blocks.0.attn.to_q"
    for end in ("", ".weight"):
        state = {f"{stem}.lora_A{end}": rand(12, 2), f"{stem}.lora_B{end}": rand(2, rows)}
        with pytest.raises(BadLora, match="turned over, as MLX keeps them"):
            read_adapter(st_file(tmp_path / "x.safetensors", state))
    high = {f"{stem}.lora_A.weight": rand(18, 12), f"{stem}.lora_B.weight": rand(12, 18)}
    (change,) = read_adapter(st_file(tmp_path / "y.safetensors", high)).changes
    assert change.rank == 18


@pytest.mark.parametrize("part", ["transformer_2", "vae", "connectors"])
def test_a_second_part_of_a_pipeline_is_what_keeps_a_lora_out_of_a_space(tmp_path: Path, part: str) -> None:
    state = {**pair("transformer.blocks.0.attn1.to_q"), **pair(f"{part}.blocks.0.attn1.to_q")}
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    assert (adapter.exact, adapter.parts) == (True, {"transformer": 1, part: 1})
    with pytest.raises(BadLora, match=f"changes the {part} beside the transformer"):
        read_lora(tmp_path / "x.safetensors")


def test_a_layers_own_weights_beside_its_factors_are_of_that_layer(tmp_path: Path) -> None:
    state = {**pair(PEFT_KEY), f"{PEFT_KEY}.base_layer.weight": rand(16, 12)}
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    assert (adapter.kind, adapter.exact, adapter.parts) == ("LoRA", False, {"unet": 1})


PEFT_KEY = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("peft_type", "tensors", "kind"),
    [
        ("FOURIERFT", {"fourierft_spectrum": rand(30)}, "FOURIERFT"),
        ("HRA", {"hra_u": rand(12, 4)}, "HRA"),
        (
            "ADALORA",
            {"lora_A": rand(2, 12), "lora_B": rand(16, 2), "lora_E": rand(2, 1), "ranknum": rand(1)},
            "AdaLoRA",
        ),
        ("IA3", {"ia3_l": rand(16, 1)}, "IA3"),
        ("OFT", {"oft_R.weight": rand(4, 6)}, "OFT"),
        ("BOFT", {"boft_R": rand(1, 4, 4, 4), "boft_s": rand(16, 1)}, "BOFT"),
        ("LN_TUNING", {"ln_tuning_layers.weight": rand(16), "ln_tuning_layers.bias": rand(16)}, "LN_TUNING"),
        ("OSF", {"osf_svd_params.U_low": rand(16, 4), "osf_svd_params.S_low": rand(4)}, "OSF"),
    ],
)
def test_pefts_other_methods_are_called_by_their_names(
    tmp_path: Path, peft_type: str, tensors: dict[str, np.ndarray], kind: str
) -> None:
    st_file(tmp_path / "adapter_model.safetensors", {f"{PEFT_KEY}.{k}": v for k, v in tensors.items()})
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": peft_type, "r": 2, "lora_alpha": 2}))
    adapter = read_adapter(tmp_path)
    assert (adapter.kind, adapter.exact, adapter.parts) == (kind, False, {"unet": 1})


def test_what_changes_no_weights_or_draws_no_pictures_is_refused_by_name(tmp_path: Path) -> None:
    from w2w_registry.errors import BadLora

    st_file(tmp_path / "adapter_model.safetensors", {"prompt_embeddings": rand(8, 12)})
    for settings_, reason in (
        ({"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM"}, "an adapter of a language model"),
        ({"peft_type": "PROMPT_TUNING"}, "a PEFT adapter of the kind PROMPT_TUNING, which changes no weights"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings_))
        with pytest.raises(BadLora) as caught:
            read_adapter(tmp_path)
        assert caught.value.reason == reason
    for stem in (
        "model.layers.0.block_sparse_moe.experts.0.w1",
        "backbone.layers.0.mixer.in_proj",
        "rwkv.blocks.0.x",
        "transformer.encoder.layers.0.self_attention.query_key_value",
        "model.layers.0.mamba.in_proj",
    ):
        with pytest.raises(BadLora, match="language model"):
            read_adapter(st_file(tmp_path / "x" / "x.safetensors", pair(f"base_model.model.{stem}")))


def test_an_adapter_of_a_model_that_reads_pictures_is_a_language_models(tmp_path: Path) -> None:
    from w2w_registry.errors import BadLora

    looks = {k: v for i in range(3) for k, v in pair(f"base_model.model.visual.blocks.{i}.attn.qkv").items()}
    speaks = pair("base_model.model.model.language_model.layers.0.self_attn.q_proj")
    with pytest.raises(BadLora, match="language model"):
        read_adapter(st_file(tmp_path / "x.safetensors", looks | speaks))


@pytest.mark.parametrize("shape", [(4, 2, 2), (2, 2, 4, 4)])
def test_the_alpha_of_a_rotation_is_its_limit_and_may_be_none(tmp_path: Path, shape: tuple[int, ...]) -> None:
    name = LAYERS["linear"][0]
    digests = set()
    for i, limit in enumerate((0.0, 1e-3)):
        state = {f"{name}.oft_blocks": rand(*shape), f"{name}.alpha": np.array(limit, np.float32)}
        adapter = read_adapter(st_file(tmp_path / f"{i}.safetensors", state))
        assert (adapter.kind, adapter.exact) == ("OFT" if len(shape) == 3 else "BOFT", False)
        digests.add(adapter.digest)
    assert len(digests) == 2


def test_what_changes_nothing_is_known_to(tmp_path: Path) -> None:
    name = LAYERS["linear"][0]
    for up, idle in ((np.zeros((16, 2), np.float32), True), (rand(16, 2), False)):
        state = {f"{name}.lora_down.weight": rand(2, 12), f"{name}.lora_up.weight": up}
        assert read_adapter(st_file(tmp_path / "x.safetensors", state)).idle is idle


def test_a_weight_decomposed_lokr_is_kept_as_what_it_is(tmp_path: Path) -> None:
    name = LAYERS["linear"][0]
    state = {f"{name}.lokr_w1": rand(4, 3), f"{name}.lokr_w2": rand(4, 4), f"{name}.dora_scale": rand(16, 1)}
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    assert (adapter.kind, adapter.exact) == ("DoRA of LoKr", False)


def test_xlabs_files_are_what_diffusers_makes_of_them(tmp_path: Path) -> None:
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers as convert

    state = {
        **pair("double_blocks.0.processor.qkv_lora1", "down", "up", 36),
        **pair("double_blocks.0.processor.qkv_lora2", "down", "up", 36),
        **pair("double_blocks.0.processor.proj_lora1", "down", "up"),
        **pair("double_blocks.0.processor.proj_lora2", "down", "up"),
        **pair("single_blocks.1.processor.qkv_lora", "down", "up", 36),
        **pair("single_blocks.1.processor.proj_lora", "down", "up"),
    }
    theirs = {k: np.asarray(v, np.float64) for k, v in convert({k: torch.tensor(v) for k, v in state.items()}).items()}
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", state))
    assert (adapter.format, adapter.exact) == ("xlabs", True)
    modules = {k.removeprefix("transformer.").partition(".lora_")[0] for k in theirs}
    assert {c.module for c in adapter.changes} == modules
    for change in adapter.changes:
        a, b = (theirs[f"transformer.{change.module}.lora_{x}.weight"] for x in "AB")
        assert relative(change.delta(), b @ a) < 1e-6


def test_a_config_beside_is_honoured_whatever_the_spelling(tmp_path: Path) -> None:
    name = LAYERS["linear"][0]
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "alpha_pattern": {"attn1.to_q": 8}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    dump = read_adapter(st_file(tmp_path / "x.safetensors", pair(name, "lora_down", "lora_up")))
    assert (only(dump).scale, dump.alpha_source) == (4.0, "config")
    own = {**pair(name, "lora_down", "lora_up"), f"{name}.alpha": np.asarray(1, np.int64)}
    (tmp_path / "x.safetensors").unlink()
    assert only(read_adapter(st_file(tmp_path / "y.safetensors", own))).scale == 0.5


@pytest.mark.parametrize("name", ["Adapter_Config.json", "ADAPTER_CONFIG.JSON"])
def test_a_config_is_honoured_in_other_case(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8}))
    stem = "base_model.model.unet.mid_block.attentions.0.proj_in"
    adapter = read_adapter(st_file(tmp_path / "adapter_model.safetensors", pair(stem)))
    assert (only(adapter).scale, adapter.alpha_source) == (4.0, "config")


def test_factors_may_carry_the_adapters_name_and_no_more(tmp_path: Path) -> None:
    stem = "base_model.model.unet.mid_block.attentions.0.proj_in"
    plain = pair(stem)
    named = {key.replace(".weight", ".default"): array for key, array in plain.items()}
    one, other = (only(read_adapter(st_file(tmp_path / f"{i}.safetensors", t))) for i, t in enumerate((plain, named)))
    assert other.kind == "LoRA"
    assert relative(other.delta(), one.delta()) == 0


def test_parts_may_be_spelt_in_two_ways_a_layer_may_not(tmp_path: Path) -> None:
    from w2w_registry.errors import BadLora

    text = pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_down", "lora_up")
    adapter = read_adapter(st_file(tmp_path / "x.safetensors", {**pair("unet.mid_block.attentions.0.proj_in"), **text}))
    assert adapter.parts == {"text_encoder": 1, "unet": 1}
    with pytest.raises(BadLora, match="mixes key names"):
        read_adapter(
            st_file(
                tmp_path / "y.safetensors",
                {**pair("unet.mid_block.attentions.0.proj_in"), **pair(LAYERS["linear"][0], "lora_down", "lora_up")},
            )
        )


def test_trained_biases_and_unknown_tensors_are_no_plain_lora(tmp_path: Path) -> None:
    for extra, reason in (
        ({f"{PEFT_KEY}.bias": rand(16)}, "replaced weights"),
        ({"base_model.model.x.set_weight": rand(3)}, "tensors this release does not know"),
        ({"diffusion_model.img_in.set_weight": rand(3)}, "not a LoRA tensor"),
    ):
        with pytest.raises(BadLora, match=reason):
            read_lora(st_file(tmp_path / "x.safetensors", {**pair(PEFT_KEY), **extra}))
    with_words = {**pair(f"unet.{PEFT_KEY.removeprefix('base_model.model.')}"), "clip_l": rand(1, 12)}
    assert not read_adapter(st_file(tmp_path / "y.safetensors", with_words)).exact
    assert read_lora(tmp_path / "y.safetensors").part == "unet"
