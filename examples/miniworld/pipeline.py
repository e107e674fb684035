"""The parts of the mini world's Stable-Diffusion-shaped pipeline, and the folder they are saved in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from examples.miniworld.world import vocabulary

TEXT_LENGTH: Final = 24
TEXT_WIDTH: Final = 64
PROMPT: Final = "photo of sks person"
START, END = "<|startoftext|>", "<|endoftext|>"


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in byte order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    table = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    return [table[b] for b in range(256)]


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that keeps every word of the captions whole (other words fall into pieces).

    The merges of a word grow it letter by letter from the left.  Longer prefixes come first, so that a word once begun
    is finished before another pair of its letters is looked at; which first pair wins is settled by their order.
    """
    words = [*vocabulary(), ","]
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        symbols = [*word[:-1], word[-1] + "</w>"]
        prefix = symbols[0]
        for depth, symbol in enumerate(symbols[1:], start=2):
            merges.setdefault((prefix, symbol), depth)
            prefix += symbol
    ordered = sorted(merges, key=lambda pair: -merges[pair])
    symbols = _byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(pair) for pair in ordered), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for _ in range(len(ordered)):
        broken = _broken(words, ordered)
        if broken is None:
            break
        # The pair that should have come first moves ahead of every other first pair.
        ordered.remove(broken)
        ordered.insert(next(i for i, pair in enumerate(ordered) if merges[pair] == 2), broken)
    else:
        raise RuntimeError("no order of merges keeps every word whole")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in ordered)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=TEXT_LENGTH
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _broken(words: Iterable[str], ordered: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The first pair of the first word that these merges do not keep whole, or None."""
    rank = {pair: i for i, pair in enumerate(ordered)}
    for word in words:
        symbols = [*word[:-1], word[-1] + "</w>"]
        first = (symbols[0], symbols[1]) if len(symbols) > 1 else None
        while len(symbols) > 1:
            pairs = [pair for pair in pairwise(symbols) if pair in rank]
            if not pairs:
                return first
            best = min(pairs, key=lambda pair: rank[pair])
            at = next(i for i in range(len(symbols) - 1) if (symbols[i], symbols[i + 1]) == best)
            symbols[at : at + 2] = ["".join(best)]
    return None


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two small layers: the captions are short lists of words."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_unet(widths: tuple[int, int] = (64, 128)) -> UNet2DConditionModel:
    """Cross-attention in every block, so that rank-1 LoRAs on ``to_q`` and ``to_v`` reach the whole network."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """v-prediction down to zero signal: what an identity looks like on average is learned at the last step."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(N, TEXT_LENGTH) token ids, padded as the pipeline pads them."""
    out = tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    ids: torch.Tensor = out.input_ids
    return ids


def whiten(vae: AutoencoderKL, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Bake into ``quant_conv`` and ``post_quant_conv`` the affine map that makes latents zero-mean, unit-variance.

    ``mean`` is (C,), ``covariance`` (C, C) of the latents over photos and places.  The map is symmetric (ZCA), the
    decoder sees exactly what it saw before, and the pipeline needs no scaling factor.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    forward = (vectors * values.clamp_min(1e-8).rsqrt()) @ vectors.T
    backward = (vectors * values.clamp_min(1e-8).sqrt()) @ vectors.T
    channels = len(mean)
    with torch.no_grad():
        quant, post = vae.quant_conv, vae.post_quant_conv
        weight = quant.weight[:channels, :, 0, 0].double()
        quant.weight[:channels, :, 0, 0] = (forward @ weight).float()
        quant.bias[:channels] = (forward @ (quant.bias[:channels].double() - mean.double())).float()
        # The variance is left axis-aligned; only its scale follows.
        quant.bias[channels:] += 2.0 * forward.diagonal().log().float()
        weight = post.weight[:, :, 0, 0].double()
        post.bias += (weight @ mean.double()).float()
        post.weight[:, :, 0, 0] = (weight @ backward).float()


def load_pipeline(folder: Path | str) -> StableDiffusionPipeline:
    """The shipped pipeline in fp32 on the CPU, as stock diffusers opens it."""
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)
    pipeline.to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
