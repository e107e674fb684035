"""kohya's flattened names, and the older names of the original code, against what diffusers' own mapping says."""

from __future__ import annotations

import pytest

from w2w_registry.lora.flat import module_to_kohya
from w2w_registry.lora.formats import Key, read_keys
from w2w_registry.lora.unets import UnknownKey, kohya_to_module

KNOWN = {
    "input_blocks_1_1_transformer_blocks_0_attn1_to_q": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "input_blocks_2_1_proj_in": "down_blocks.0.attentions.1.proj_in",
    "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_4_0_in_layers_2": "down_blocks.1.resnets.0.conv1",
    "input_blocks_8_1_transformer_blocks_9_attn2_to_out_0": (
        "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0"
    ),
    "input_blocks_7_0_skip_connection": "down_blocks.2.resnets.0.conv_shortcut",
    "middle_block_0_out_layers_3": "mid_block.resnets.0.conv2",
    "middle_block_1_transformer_blocks_0_ff_net_0_proj": "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "middle_block_2_emb_layers_1": "mid_block.resnets.1.time_emb_proj",
    "output_blocks_0_1_transformer_blocks_9_attn1_to_v": "up_blocks.0.attentions.0.transformer_blocks.9.attn1.to_v",
    "output_blocks_2_1_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_5_2_conv": "up_blocks.1.upsamplers.0.conv",
    "output_blocks_11_1_transformer_blocks_0_ff_net_2": "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2",
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
}


@pytest.mark.parametrize(("name", "module"), KNOWN.items())
def test_original_names(name: str, module: str) -> None:
    assert kohya_to_module(f"lora_unet_{name}") == module


@pytest.mark.parametrize(
    "module",
    [
        *KNOWN.values(),
        "up_blocks.10.attentions.2.transformer_blocks.11.attn2.to_k",
        "down_blocks.1.attentions.0.to_q",
        "time_embedding.linear_2",
        "add_embedding.linear_1",
    ],
)
def test_every_module_survives_the_flat_name(module: str) -> None:
    assert kohya_to_module(module_to_kohya(module)) == module


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_",
        "lora_unet_down_blocks_0",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn3_to_q",
        "lora_unet_double_blocks_0_img_attn_proj",
        "lora_unet_middle_block_5_in_layers_2",
        "lora_unet_output_blocks_2_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_mid_block_downsamplers_0_op",
    ],
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UnknownKey):
        kohya_to_module(name)


def test_unets_of_diffusers_are_known() -> None:
    """Every linear and convolution of SD and SDXL shaped UNets has a kohya name that leads back to it."""
    torch = pytest.importorskip("torch")
    from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel

    common = {"sample_size": 8, "layers_per_block": 2, "norm_num_groups": 4, "cross_attention_dim": 8}
    small = UNet2DConditionModel(block_out_channels=(8, 8, 8, 8), attention_head_dim=4, **common)
    sdxl = UNet2DConditionModel(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        attention_head_dim=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
        use_linear_projection=True,
        **common,
    )
    video = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        num_attention_heads=(2, 2),
        cross_attention_dim=8,
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12,
    )
    for unet in (small, sdxl, video):
        names = [n for n, m in unet.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
        assert len(names) > 50
        for name in names:
            assert kohya_to_module(module_to_kohya(name)) == name


def key(name: str) -> Key:
    keys, _, unknown = read_keys([name])
    assert not unknown
    return keys[name]


def test_roles() -> None:
    assert key("unet.conv_in.alpha").role == "alpha"
    assert key("lora_unet_conv_in.lora_up.weight").role == "B"
    assert key("base_model.model.conv_in.lora_A.default.weight").adapter == "default"
    assert key("lora_te2_text_model_x.lora_up.weight").part == "text_encoder_2"


LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = LAYER.replace(".", "_")


@pytest.mark.parametrize(
    ("name", "part", "module"),
    [
        (f"lora_unet__{FLAT}.lora_down.weight", "unet", LAYER),
        (f"unet.{LAYER}.lora_layer.down.weight", "unet", LAYER),
        ("lora_te_encoder_layers_3_mlp_fc1.lora_up.weight", "text_encoder", "text_model.encoder.layers.3.mlp.fc1"),
        ("text_encoder.model.layers.0.mlp.fc1.lora_A.weight", "text_encoder", "model.layers.0.mlp.fc1"),
        (
            "text_encoders.qwen25_7b.transformer.model.layers.0.mlp.up_proj.lora_A.weight",
            *("text_encoder", "model.layers.0.mlp.up_proj"),
        ),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", "language model", "model.layers.0.mlp.up_proj"),
    ],
)
def test_names_that_a_few_tools_write(name: str, part: str, module: str) -> None:
    found = key(name)
    assert (found.part, found.targets[0].module) == (part, module)


@pytest.mark.parametrize(
    "wrapped",
    [
        "unet.base_model.model.",
        "base_model.model.unet.base_model.model.",
        "unet._orig_mod.",
        "unet.module.",
        "base_model.",
    ],
)
def test_what_wraps_a_model_for_training_is_no_part_of_its_names(wrapped: str) -> None:
    found = key(f"{wrapped}{LAYER}.lora_A.weight")
    assert (found.part, found.targets[0].module) == ("unet", LAYER)
