"""A folder as people have them: LoRAs of several base models in several formats, re-saves, other kinds of adapters,
broken files and files of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.lora.loras import st_file
from tests.services.world import BASE, World
from w2w_registry.lora import write_lora
from w2w_registry.space.layout import layout_of

ATTENTION = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
FORMATS = ("peft", "diffusers", "kohya")


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def transformer_lora(index: int) -> dict[tuple[str, str], np.ndarray]:
    """LoRAs of a Flux-shaped transformer that start from one A."""
    modules = [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"] + ["single_transformer_blocks.0.attn.to_q"]
    tensors: dict[tuple[str, str], np.ndarray] = {}
    for n, module in enumerate(modules):
        tensors[module, "A"] = rand(1, 8, seed=n) + 0.02 * rand(1, 8, seed=1000 + 10 * index + n)
        tensors[module, "B"] = rand(8, 1, seed=2000 + 10 * index + n)
    return tensors


def make_folder(root: Path, world: World, *, persons: int = 20, others: int = 20) -> Path:
    """``persons`` of the world in three formats (some re-saved), ``others`` of a transformer, and the rest."""
    for i in range(persons):
        where = root / "people" / f"p{i:04d}"
        where = where if FORMATS[i % 3] == "peft" else where.with_suffix(".safetensors")
        tensors = world.layout.unflatten(world.theta(i))
        write_lora(where, tensors, world.layout.alpha, fmt=FORMATS[i % 3], base_model=BASE)
        if i % 5 == 0:  # re-saved, in another format and precision
            copy = root / "copies" / f"p{i:04d}-copy.safetensors"
            write_lora(copy, tensors, world.layout.alpha, fmt="diffusers", dtype="fp16", base_model=BASE)
    for i in range(others):
        assert layout_of({k: v.shape for k, v in transformer_lora(i).items()}, 1.0).dim  # type: ignore[misc]
        write_lora(root / "flux" / f"output{i}" / "transformer", transformer_lora(i), 1.0, fmt="diffusers")
    pair = {f"{ATTENTION}.lora_down.weight": rand(2, 12), f"{ATTENTION}.lora_up.weight": rand(16, 2)}
    st_file(root / "odd" / "dora.safetensors", {**pair, f"{ATTENTION}.dora_scale": rand(16, 1)})
    st_file(root / "odd" / "partial.safetensors", {**pair, f"{ATTENTION}.alpha": np.asarray(1, np.int64)})
    loha = {
        f"{ATTENTION}.hada_w{i}_{x}": rand(*((16, 2) if x == "a" else (2, 12)), seed=i) for i in (1, 2) for x in "ab"
    }
    st_file(root / "odd" / "loha.safetensors", loha, {"modelspec.trigger_phrase": "sks style"})
    (root / "odd" / "loha.civitai.info").write_text(json.dumps({"baseModel": "SD 1.5", "trainedWords": ["painted"]}))
    st_file(root / "odd" / "learned_embeds.safetensors", {"emb_params": rand(1, 12)})
    st_file(root / "odd" / "vae.safetensors", {"decoder.conv_in.weight": rand(4, 4)})
    (root / "odd" / "old.ckpt").write_bytes(b"\x80\x02")
    for i in range(6):
        (root / "broken").mkdir(exist_ok=True)
        (root / "broken" / f"b{i}.safetensors").write_bytes(b"no" if i < 4 else bytes(64))
    return root
