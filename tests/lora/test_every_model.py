"""Every denoiser that diffusers has: a bare LoRA of its layers is known as one, each layer by its own name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

from w2w_registry.lora.formats import read_keys

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

DRAW_NOTHING = {
    "T5FilmDecoder": "makes notes into spectrograms",
    "RFD4ProteinaTransformer": "folds proteins",
    "UNet1DModel": "moves robots and makes sound",
    "MotionAdapter": "is put into a UNet",
    "DualTransformer2DModel": "is put into a UNet",
}
GIVEN: dict[str, dict[str, Any]] = {
    "HunyuanDiT2DModel": {
        "num_layers": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "patch_size": 2,
    },
    "LatteTransformer3DModel": {
        **{"num_layers": 1, "in_channels": 4, "out_channels": 4, "patch_size": 2, "sample_size": 8},
        "caption_channels": 8,
    },
    "LuminaNextDiT2DModel": {"num_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "num_kv_heads": 2},
    "Transformer2DModel": {"in_channels": 32, "attention_head_dim": 8, "num_attention_heads": 2},
    "DreamLiteTransformer2DModel": {"in_channels": 32, "attention_head_dim": 8, "num_attention_heads": 2},
    "EasyAnimateTransformer3DModel": {"num_layers": 1, "in_channels": 4, "out_channels": 4, "patch_size": 2},
    "HiDreamImageTransformer2DModel": {
        **{"patch_size": 2, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8},
        **{"num_attention_heads": 2, "caption_channels": [8, 8], "text_emb_dim": 8},
    },
    "OmniGenTransformer2DModel": {"num_layers": 1, "rope_scaling": {"long_factor": [1.0], "short_factor": [1.0]}},
    "WanVACETransformer3DModel": {"num_layers": 2, "vace_layers": [0]},
    "TransformerTemporalModel": {"in_channels": 32, "attention_head_dim": 8, "num_attention_heads": 2},
}
_DEPTH = re.compile(r"(?:num|n)_.*(?:layers|blocks)|depth|depth_single_blocks")
_ATTENTION = re.compile(r".*(?:to_(?:q|k|v|out\.0|query|key|value)|[qkvo]_proj|out_proj|qkv)")


def _models() -> Iterator[type[Any]]:
    from diffusers import ModelMixin
    from diffusers.models import transformers, unets

    for package in (transformers, unets):
        for found in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{found.name}")
            for name, kind in vars(module).items():
                own = inspect.isclass(kind) and kind.__module__ == module.__name__
                if own and issubclass(kind, ModelMixin) and name not in DRAW_NOTHING:
                    yield kind


def _layers(kind: type[Any]) -> list[str]:
    """The linear layers and convolutions of a shallow model of this kind, without numbers."""
    asked = inspect.signature(kind).parameters.values()
    few = {p.name: 1 for p in asked if _DEPTH.fullmatch(p.name) and isinstance(p.default, int) and p.default > 1}
    with torch.device("meta"):
        model = kind(**GIVEN.get(kind.__name__, few))
    plain = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return [name for name, layer in model.named_modules() if isinstance(layer, plain)]


def _forms(layer: str) -> dict[str, str]:
    flat = layer.replace(".", "_")
    return {
        "peft": f"base_model.model.{layer}.lora_A.weight",
        "bare": f"{layer}.lora_A.weight",
        "comfyui": f"diffusion_model.{layer}.lora_A.weight",
        "kohya": f"lora_unet_{flat}.lora_down.weight",
        "lycoris": f"lycoris_{flat}.lora_down.weight",
    }


def test_a_lora_of_every_denoiser_is_known() -> None:
    seen, wrong = 0, {}
    for kind in _models():
        every = _layers(kind)
        attention = [name for name in every if _ATTENTION.fullmatch(name)]
        part = "unet" if "UNet" in kind.__name__ else "transformer"
        # The original Sana's files name an attention by itself as Sana WM does.
        for layers in (every,) if kind.__name__.startswith("SanaWM") else (every, attention or every):
            for form in _forms(""):
                seen += 1
                names = {_forms(layer)[form]: layer for layer in layers}
                keys, _, unknown = read_keys(names)
                found = {n: (key.part, *(t.module for t in key.targets)) for n, key in keys.items()}
                if unknown or found != {n: (part, layer) for n, layer in names.items()}:
                    wrong[kind.__name__, form, len(layers)] = unknown or {
                        n: one for n, one in found.items() if one != (part, names[n])
                    }
    assert not wrong
    assert seen > 500
