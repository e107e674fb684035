"""Train LoRAs as other people's tools would: other ranks, starts, modules, prompts, lengths, DoRA, text encoders.

``python -m examples.miniworld.train_foreign work`` trains shard after shard (25 identities of one kind) until all are
done or it is stopped; run it again to go on, in as many one-thread processes as there are cores.  ``… status`` counts
them.  What is trained, one kind a row, is ``KINDS``; photos are a session that no shipped LoRA has seen, the start is
each identity's own, noise and timesteps are each shard's.  ``gather`` reads what is done, ready to be probed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples.miniworld.pipeline import PROMPT, tokenise
from examples.miniworld.train_loras import PILOT, Base
from examples.miniworld.train_vae import BUILD
from examples.miniworld.unpack import DATA, load_loras
from w2w_registry.diffusion.bank import LoraBank
from w2w_registry.diffusion.fingerprint import Adapter
from w2w_registry.diffusion.train import TrainConfig, denoising_target, draw, initial_theta, start_state, train
from w2w_registry.space.layout import Layout, TensorKey, layout_of

FOREIGN: Final = BUILD / "foreign"
SHARD: Final = 25
FEW: Final = 16
TAKE: Final = 2
"""The photo session: 0 and 1 belong to the shipped LoRAs."""
LEARN: Final = range(0, 50)
"""Whom a within-person spread may be learned from…"""
JUDGE: Final = range(112, 312)
"""…and whom recall is measured on."""


@dataclass(frozen=True)
class Kind:
    """One way of training: ``start`` "shared" is the fit's own θ₀; ``text_rank`` 0 leaves the text encoder alone."""

    rank: int
    targets: tuple[str, ...]
    start: str = "own"
    prompt: str = PROMPT
    steps: int = 120
    alpha: float | None = None
    dora: bool = False
    text_rank: int = 0


QV, QKVO, KV = ("to_q", "to_v"), ("to_q", "to_k", "to_v", "to_out.0"), ("to_k", "to_v")
KINDS: Final[dict[str, Kind]] = {
    "rank4-qkvo": Kind(4, QKVO),
    "text-encoder": Kind(4, QV, text_rank=4),
    "rank1-own-start": Kind(1, QV),
    "rank16-qv": Kind(16, QV),
    "trigger": Kind(4, QV, prompt="photo of zwx person"),
    "dora": Kind(4, QV, dora=True),
    "rank4-kv": Kind(4, KV),
    "alpha-1": Kind(4, QV, alpha=1.0),
    "short": Kind(4, QKVO, steps=40),
    "barely": Kind(4, QKVO, steps=10),
    "long": Kind(4, QKVO, steps=240),
}
WIDELY: Final = ("rank4-qkvo", "text-encoder", "rank1-own-start", "rank16-qv", "trigger", "dora")
"""Kinds trained first, and for ``LEARN`` too; of the others ``FEW`` are trained before the rest."""


def kind_layout(unet: torch.nn.Module, kind: Kind) -> Layout:
    """``kind``'s rank on its targets of every attention; alpha equals the rank where none is given."""
    shapes: dict[TensorKey, tuple[int, ...]] = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(kind.targets) and ".attn" in name:
            shapes[name, "A"] = (kind.rank, module.in_features)
            shapes[name, "B"] = (module.out_features, kind.rank)
    return layout_of(shapes, kind.alpha or float(kind.rank))


def text_layout(encoder: torch.nn.Module, kind: Kind) -> Layout:
    """``kind``'s rank on every attention projection of the text encoder; alpha equals the rank."""
    shapes: dict[TensorKey, tuple[int, ...]] = {}
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Linear) and ".self_attn." in name:
            shapes[name, "A"] = (kind.text_rank, module.in_features)
            shapes[name, "B"] = (module.out_features, kind.text_rank)
    return layout_of(shapes, float(kind.text_rank))


def gaussian(layout: Layout, seed: int) -> Tensor:
    """θ (D,): A ~ N(0, 1/r²), B zero, as PEFT's ``init_lora_weights="gaussian"``."""
    generator, theta = torch.Generator().manual_seed(seed), torch.zeros(layout.dim)
    for tensor, part in layout.slices():
        if tensor.factor == "A":
            theta[part] = torch.randn(tensor.size, generator=generator) / tensor.rank
    return theta


def recipe(kind: Kind, index: int) -> TrainConfig:
    """The pilot's recipe (A starts at random and has to move), with a chance of the identity's own."""
    rate = {1: 2e-2, 4: 6e-3, 16: 3e-3}[kind.rank] * (kind.rank / (kind.alpha or kind.rank)) ** 0.5
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

    def peft(self, kind: Kind, indices: list[int]) -> dict[str, Tensor]:
        """What PEFT would train (DoRA, a text-encoder part; A ~ N(0, 1/r²)), all identities in one batch.

        ``theta`` (G, D), with ``magnitudes`` (G, M) of DoRAs and ``text_theta`` (G, D') of text-encoder parts.
        """
        layout = kind_layout(self.base.unet, kind)
        bank, encoder = LoraBank(self.base.unet, layout), self.base.pipeline.text_encoder
        learned = {"theta": torch.stack([gaussian(layout, 90_000 + i) for i in indices])}
        if kind.dora:
            learned["magnitudes"] = bank.row_norms().repeat(len(indices), 1)
        words = LoraBank(encoder, text_layout(encoder, kind)) if kind.text_rank else None
        if words is not None:
            learned["text_theta"] = torch.stack([gaussian(words.layout, 190_000 + i) for i in indices])
        for value in learned.values():
            value.requires_grad_()
        config, dtype = recipe(kind, indices[0]), next(self.base.unet.parameters()).dtype
        for part in (self.base.unet, encoder):
            part.requires_grad_(False)
        optimiser = torch.optim.Adam(learned.values(), lr=config.lr, betas=config.betas)
        latents = torch.stack([self.base.latents(i, TAKE) for i in indices])
        ids = tokenise(self.base.pipeline.tokenizer, [kind.prompt]).expand(len(indices), -1)
        losses = []
        for step in range(config.steps):
            for group in optimiser.param_groups:
                group["lr"] = config.lr * (1 - step / config.steps)
            now = draw(config, step, latents.shape[1], tuple(latents.shape[2:]))
            each = len(now.timesteps)
            t = now.timesteps.repeat(len(indices))
            noise = now.noise.repeat(len(indices), 1, 1, 1)
            noisy, target = denoising_target(self.base.scheduler, latents[:, now.photos].flatten(0, 1), noise, t)
            with nullcontext() if words is None else words.apply(learned["text_theta"]):
                text = encoder(ids)[0].repeat_interleave(each, 0)
            with bank.apply(learned["theta"], magnitudes=learned.get("magnitudes")):
                out = self.base.unet(noisy.to(dtype), t, text.to(dtype)).sample
            loss = (out.float() - target).square().flatten(1).mean(1).reshape(-1, each).mean(1)
            optimiser.zero_grad()
            loss.sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
        return {k: v.detach() for k, v in learned.items()} | {"loss": torch.stack(losses[-20:]).mean(0)}


def shards() -> list[tuple[str, str, list[int]]]:
    """(file, kind, identities): one shard of every kind before the second of any."""
    judge, learn = ([list(part[i : i + SHARD]) for i in range(0, len(part), SHARD)] for part in (JUDGE, LEARN))
    order = [(kind, judge[0]) for kind in WIDELY]
    order += [(kind, learn[0]) for kind in WIDELY[:4]]
    order += [(kind, part) for part in judge[1:3] for kind in WIDELY]
    others = [kind for kind in KINDS if kind not in WIDELY]
    order += [(kind, judge[0][:FEW]) for kind in others]
    order += [(kind, part) for part in judge[3:5] for kind in WIDELY]
    order += [(kind, judge[0][FEW:]) for kind in others]
    for first, rest in zip(judge[5:], (judge[1:3], judge[3:5], judge[5:]), strict=True):
        order += [(kind, first) for kind in WIDELY] + [(kind, part) for part in rest for kind in others]
    order += [(kind, part) for part in learn for kind in WIDELY if (kind, part) not in order]
    return [(f"{kind}-{part[0]:04d}", kind, part) for kind, part in order]


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
        trainer, kind, began = trainer or Trainer(), KINDS[kind_name], time.process_time()
        tensors = (trainer.peft if kind.dora or kind.text_rank else trainer.batch)(kind, indices)
        loss = tensors["loss"].mean().item()
        temporary = FOREIGN / f".{name}.tmp"
        save_file(tensors | {"indices": torch.tensor(indices)}, temporary, {"kind": kind_name})
        temporary.replace(done)
        claim.unlink()
        print(f"{name} loss {loss:.4f} {(time.process_time() - began) / len(indices):.2f} CPU s per LoRA", flush=True)


def gather(kind_name: str, base: Any, folder: Path = FOREIGN) -> Iterator[tuple[int, Adapter]]:
    """(identity, adapter as it is probed) of every one of a kind that is done; ``base`` is the pipeline."""
    kind = KINDS[kind_name]
    layout = kind_layout(base.unet, kind)
    words = text_layout(base.text_encoder, kind) if kind.text_rank else None
    for name, of, indices in shards():
        path = folder / f"{name}.safetensors"
        if of != kind_name or not path.exists():
            continue
        tensors = {key: value.numpy() for key, value in load_file(str(path)).items()}
        for n, index in enumerate(indices):
            text = None if words is None else (words, tensors["text_theta"][n])
            magnitudes = tensors["magnitudes"][n] if kind.dora else None
            yield index, Adapter(layout, tensors["theta"][n], magnitudes=magnitudes, text=text)


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
