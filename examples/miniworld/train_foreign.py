"""Train LoRAs as other people's tools would: other ranks, starts, modules, prompts, lengths, DoRA, text encoders.

``python -m examples.miniworld.train_foreign work`` trains shard after shard (16 identities of one kind) until all are
done or it is stopped; run it again to go on, in as many one-thread processes as there are cores.  ``… status`` counts
them.  What is trained, one kind a row, is ``KINDS``; photos are a session that no shipped LoRA has seen, and noise,
start and seed are each identity's own.  ``gather`` reads what is done, as adapters any tool can load.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples.miniworld.pipeline import PROMPT, tokenise
from examples.miniworld.train_loras import PILOT, Base
from examples.miniworld.train_vae import BUILD
from examples.miniworld.unpack import DATA, load_loras
from w2w_registry.diffusion.train import TrainConfig, denoising_target, draw, initial_theta, start_state, train
from w2w_registry.space.layout import Layout, TensorKey, layout_of

FOREIGN: Final = BUILD / "foreign"
SHARD: Final = 16
TAKE: Final = 2
"""The photo session: 0 and 1 belong to the shipped LoRAs."""
LEARN: Final = range(0, 32)
"""Whom a within-person spread may be learned from…"""
JUDGE: Final = range(112, 176)
"""…and whom recall is measured on."""


@dataclass(frozen=True)
class Kind:
    """One way of training: ``start`` "shared" is the fit's own θ₀; ``text_rank`` 0 leaves the text encoder alone."""

    rank: int
    targets: tuple[str, ...]
    start: str = "own"
    prompt: str = PROMPT
    steps: int = 120
    dora: bool = False
    text_rank: int = 0


QV, QKVO, KV = ("to_q", "to_v"), ("to_q", "to_k", "to_v", "to_out.0"), ("to_k", "to_v")
KINDS: Final[dict[str, Kind]] = {
    "rank4-qkvo": Kind(4, QKVO),
    "rank1-own-start": Kind(1, QV),
    "rank16-qv": Kind(16, QV),
    "trigger": Kind(4, QV, prompt="photo of zwx person"),
    "dora": Kind(4, QV, dora=True),
    "text-encoder": Kind(4, QV, text_rank=4),
    "rank4-kv": Kind(4, KV),
    "short": Kind(4, QKVO, steps=40),
}


def kind_layout(unet: torch.nn.Module, kind: Kind) -> Layout:
    """``kind``'s rank on its targets of every attention; alpha equals the rank."""
    shapes: dict[TensorKey, tuple[int, ...]] = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(kind.targets) and ".attn" in name:
            shapes[name, "A"] = (kind.rank, module.in_features)
            shapes[name, "B"] = (module.out_features, kind.rank)
    return layout_of(shapes, float(kind.rank))


def recipe(kind: Kind, index: int) -> TrainConfig:
    """The pilot's recipe (A starts at random and has to move), with a chance of the identity's own."""
    rate = {1: 2e-2, 4: 6e-3, 16: 3e-3}[kind.rank]
    return replace(PILOT, steps=kind.steps, lr=rate, average_from=0.7, seed=50_000 + index)


class Trainer:
    """The shipped base model, and LoRAs trained on it."""

    def __init__(self) -> None:
        self.base = Base(DATA / "pipeline")
        self.theta0 = torch.from_numpy(load_loras().theta0)

    def text(self, prompt: str) -> Tensor:
        with torch.no_grad():
            encoder = self.base.pipeline.text_encoder
            found: Tensor = encoder(tokenise(self.base.pipeline.tokenizer, [prompt]))[0][0]
        return found

    def batch(self, kind: Kind, indices: list[int]) -> dict[str, Tensor]:
        """``theta`` (G, D) of a plain LoRA, all identities in one batch."""
        layout = kind_layout(self.base.unet, kind)
        latents = torch.stack([self.base.latents(i, TAKE) for i in indices])
        config = recipe(kind, indices[0])
        state = start_state(self.theta0 if kind.start == "shared" else initial_theta(layout, 0), len(indices))
        if kind.start == "own":
            state.theta = torch.stack([initial_theta(layout, 90_000 + i) for i in indices])
        trained = train(
            self.base.unet, self.base.scheduler, layout, self.theta0, latents, self.text(kind.prompt), config,
            state=state,
        )  # fmt: skip
        return {"theta": trained.theta, "loss": trained.losses[-20:].mean(0)}

    def single(self, kind: Kind, index: int) -> dict[str, Tensor]:
        """The state dict of one PEFT adapter (DoRA, text encoder), under ``unet.`` and ``text_encoder.``."""
        from diffusers import StableDiffusionPipeline
        from peft import LoraConfig, get_peft_model_state_dict

        torch.manual_seed(90_000 + index)
        pipe = StableDiffusionPipeline.from_pretrained(
            DATA / "pipeline", safety_checker=None, torch_dtype=torch.float32
        )
        for part in (pipe.unet, pipe.text_encoder, pipe.vae):
            part.requires_grad_(False)
        common: dict[str, Any] = {"init_lora_weights": "gaussian"}
        pipe.unet.add_adapter(
            LoraConfig(
                r=kind.rank, lora_alpha=kind.rank, target_modules=list(kind.targets), use_dora=kind.dora, **common
            )
        )
        parts = {"unet": pipe.unet}
        if kind.text_rank:
            targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
            pipe.text_encoder.add_adapter(
                LoraConfig(r=kind.text_rank, lora_alpha=kind.text_rank, target_modules=targets, **common)
            )
            parts["text_encoder"] = pipe.text_encoder
        learned = [p for part in parts.values() for p in part.parameters() if p.requires_grad]
        config = recipe(kind, index)
        optimiser = torch.optim.Adam(learned, lr=config.lr, betas=config.betas)
        latents, ids = self.base.latents(index, TAKE), tokenise(pipe.tokenizer, [kind.prompt])
        losses = []
        for step in range(config.steps):
            for group in optimiser.param_groups:
                group["lr"] = config.lr * (1 - step / config.steps)
            now = draw(config, step, len(latents), tuple(latents.shape[1:]))
            noisy, target = denoising_target(pipe.scheduler, latents[now.photos], now.noise, now.timesteps)
            text = pipe.text_encoder(ids)[0].expand(len(noisy), -1, -1)
            loss = (pipe.unet(noisy, now.timesteps, text).sample - target).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        found = {f"{name}.{k}": v.contiguous() for name, part in parts.items()
                 for k, v in get_peft_model_state_dict(part).items()}  # fmt: skip
        return found | {"loss": torch.stack(losses[-20:]).mean()}


def shards() -> list[tuple[str, str, list[int]]]:
    """(file, kind, identities): one shard of every kind before the second of any."""
    people_parts = [list(part[i : i + SHARD]) for part in (JUDGE[:SHARD], LEARN[:SHARD], JUDGE[SHARD:], LEARN[SHARD:])
                    for i in range(0, len(part), SHARD)]  # fmt: skip
    return [(f"{kind}-{part[0]:04d}", kind, part) for part in people_parts for kind in KINDS]


def work(only: str | None = None) -> None:
    """Train until no shard is left; a claim older than an hour is a killed worker's."""
    FOREIGN.mkdir(parents=True, exist_ok=True)
    trainer: Trainer | None = None
    for name, kind_name, indices in shards():
        done, claim = FOREIGN / f"{name}.safetensors", FOREIGN / f"{name}.claim"
        if done.exists() or (only and only != kind_name):
            continue
        if claim.exists() and time.time() - claim.stat().st_mtime > 3600:
            claim.unlink()
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        trainer, kind, began = trainer or Trainer(), KINDS[kind_name], time.time()
        if kind.dora or kind.text_rank:
            tensors = {f"{i}|{k}": v for i in indices for k, v in trainer.single(kind, i).items()}
            loss = torch.stack([v for k, v in tensors.items() if k.endswith("|loss")]).mean().item()
        else:
            tensors = trainer.batch(kind, indices)
            loss = tensors["loss"].mean().item()
        temporary = FOREIGN / f".{name}.tmp"
        save_file(tensors | {"indices": torch.tensor(indices)}, temporary, {"kind": kind_name})
        temporary.replace(done)
        claim.unlink()
        print(f"{name} loss {loss:.4f} {(time.time() - began) / len(indices):.2f} s per LoRA", flush=True)


def gather(kind_name: str, unet: torch.nn.Module, folder: Path = FOREIGN) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(identity, state dict in diffusers' form) of every adapter of one kind that is done."""
    kind = KINDS[kind_name]
    for name, of, indices in shards():
        path = folder / f"{name}.safetensors"
        if of != kind_name or not path.exists():
            continue
        tensors = load_file(str(path))
        if "theta" in tensors:
            layout = kind_layout(unet, kind)
            for index, theta in zip(indices, tensors["theta"], strict=True):
                flat = layout.unflatten(theta.numpy().astype(np.float32))
                yield index, {f"unet.{m}.lora_{f}.weight": torch.from_numpy(v) for (m, f), v in flat.items()}
        else:
            for index in indices:
                start = f"{index}|"
                own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
                yield index, {k: v for k, v in own.items() if k != "loss"}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("work", "status"))
    parser.add_argument("kind", nargs="?", choices=tuple(KINDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.phase == "work":
        work(args.kind)
        return
    counts = {k: sum((FOREIGN / f"{n}.safetensors").exists() for n, of, _ in shards() if of == k) for k in KINDS}
    print(json.dumps({k: f"{v * SHARD} LoRAs" for k, v in counts.items()}, indent=1))


if __name__ == "__main__":
    main()
