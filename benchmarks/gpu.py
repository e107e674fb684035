"""What only a card can show: one table, in six minutes at most.

    python -m benchmarks.gpu [--small] [--device cuda] [--json FILE] [--only NAME …]

Rows: fitting 64,974 × 99,648 with 1,000 components, held on the card and streamed to it, against torch.pca_lowrank at
equal captured variance; training 16 identities at Stable Diffusion 1.5's shapes with 4 and with 1 noisy photo a step
against PEFT one at a time, and 64 × 4 in passes; inverting 32 photos against the paper's way; a brute-force search.
``--small`` takes small shapes, for a try without a card. A row that fails is told of and the others still run.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import frame
from benchmarks.frame import Row
from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel
from w2w_registry.space.layout import Layout, layout_of

_NOISE = 0.05
_RANK = 2_000
_EQUAL = 0.9999


@dataclass(frozen=True)
class Size:
    """Shapes of one run."""

    loras: int
    components: int
    identities: int
    many: int
    photos: int
    vectors: int
    steps: int
    small: bool


FULL = Size(64_974, 1_000, 16, 64, 32, 1_000_000, 12, small=False)
SMALL = Size(300, 20, 2, 4, 2, 2_000, 2, small=True)


class Card:
    """A device with a clock that waits for it, and its peak memory."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def timed(self, work: Callable[[], Any]) -> tuple[Any, float, float]:
        """What the work gives, seconds, and GiB at most (0 without a card)."""
        self.wait()
        if self.device.type == "cuda":
            gc.collect()  # what is left of the row before counts in the peak
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        found = work()
        self.wait()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        return found, seconds, peak

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


# -- fit ----------------------------------------------------------------------------------------
def fit_rows(card: Card, size: Size) -> Iterator[Row]:
    from w2w_registry.space.device import Staged, on_device
    from w2w_registry.space.fit import fit

    layout = sd15_layout() if not size.small else small_layout()
    thetas = made(card, size.loras, layout.dim)
    options: dict[str, Any] = {"base_model": "bench", "components": size.components, "fit_set_digest": "0" * 64}
    shown = {"LoRAs": size.loras, "parameters": layout.dim, "components": size.components}
    held = on_device(thetas, str(card.device)) if card.device.type != "cpu" else torch.from_numpy(thetas)
    ours, seconds, peak = card.timed(lambda: fit(held, layout, **options))
    energy = captured(held, ours.space, torch.from_numpy(np.array(ours.space.components)))
    for passes in (2, 4, 8, 16):  # as many as the peer needs for what ours captures
        peer, peers_seconds, peers_peak = card.timed(lambda n=passes: lowrank(held, ours.space, size.components, n))
        theirs = captured(held, ours.space, peer)
        if theirs >= _EQUAL * energy:
            break
    reached = {
        "captured against the peer's": energy / theirs,
        "missed at most": ours.report.missed,
        "its niter": passes,
    }
    quality = {**reached, "residual": ours.report.residual, "GiB": peak, "peer's GiB": peers_peak}
    yield Row("fit, held", seconds, peers_seconds, "torch.pca_lowrank", quality, shown)
    alone = card.timed(lambda: products(held, size.components))[1]
    yield Row("fit, held", seconds, alone, "one product with as many columns as components", {}, shown)
    held = peer = None  # the card is wanted whole
    streamed, seconds, peak = card.timed(lambda: fit(Staged(thetas, card.device), layout, **options))
    quality = {"missed at most": streamed.report.missed, "route": streamed.report.method, "GiB": peak}
    yield Row("fit, streamed", seconds, peers_seconds, "torch.pca_lowrank, held", quality, shown)


def made(card: Card, n: int, dim: int) -> np.ndarray:
    """θ (n, dim) in the machine's memory, made on the card block by block: falling components over noise."""
    out = np.empty((n, dim), np.float32)
    generator = torch.Generator(card.device).manual_seed(0)
    rank = min(n, dim, _RANK)
    spread = torch.arange(1, rank + 1, device=card.device, dtype=torch.float32) ** -0.53
    axes = torch.randn((rank, dim), generator=generator, device=card.device)
    for first in range(0, n, 2_048):
        count = min(2_048, n - first)
        where = torch.randn((count, rank), generator=generator, device=card.device) * spread
        block = where @ axes + _NOISE * torch.randn((count, dim), generator=generator, device=card.device)
        out[first : first + count] = block.cpu().numpy()
    return out


def lowrank(held: Tensor, space: Any, components: int, passes: int) -> Tensor:
    """The peer's components (D, k), standardised in place and put back."""
    mean, std = (torch.from_numpy(np.array(a)).to(held.device) for a in (space.mean, space.std))
    held.sub_(mean).div_(std)
    found: Tensor = torch.pca_lowrank(held, components, center=False, niter=passes)[2]
    held.mul_(std).add_(mean)
    return found


def captured(held: Tensor, space: Any, components: Tensor) -> float:
    """Energy of the standardised rows along components (D, k)."""
    mean, std = (torch.from_numpy(np.array(a)).to(held.device) for a in (space.mean, space.std))
    axes = components.to(held.device)
    total = 0.0
    for first in range(0, len(held), 4_096):
        total += float((((held[first : first + 4_096] - mean) / std) @ axes).double().square().sum())
    return total


def products(held: Tensor, components: int) -> Tensor:
    turn = torch.ones((len(held), components), device=held.device)
    found: Tensor = held.T @ turn
    return found


# -- training and inversion ---------------------------------------------------------------------
def train_rows(card: Card, size: Size) -> Iterator[Row]:
    from w2w_registry.diffusion.train import TrainConfig, initial_theta, train

    model, layout, words, latents = studio(card, size)
    bf16, theta = card.device.type == "cuda", initial_theta(layout, 0)
    plans: list[tuple[int, int, int | None]] = [(size.identities, samples, None) for samples in (4, 1)]
    plans += [(size.identities, 4, max(2, size.identities // 4)), (size.many, 4, size.identities)]
    for identities, samples, at_once in plans:
        config = TrainConfig(steps=size.steps, samples=samples, bf16=bf16)
        photos = latents[None].expand(identities, *latents.shape)

        def ours(steps: int, photos: Tensor = photos, config: TrainConfig = config, share: int | None = at_once) -> Any:
            plan = replace(config, steps=steps)
            return train(model.unet, model.scheduler, layout, theta, photos, words, plan, at_once=share)

        ours(1)
        _, seconds, peak = card.timed(lambda run=ours: run(size.steps))
        each = seconds / size.steps / identities
        peer, peers_peak = peft_step(card, model, words, latents, samples, size.steps, bf16=bf16)
        quality = {"GiB": peak, "peer's GiB": peers_peak}
        shown = {"identities": identities, "photos": samples, "together": at_once or identities}
        yield Row("training, a model and step", each, peer, "PEFT, one at a time", quality, shown)


def peft_step(
    card: Card, model: DiffusionModel, words: Tensor, latents: Tensor, samples: int, steps: int, *, bf16: bool
) -> tuple[float, float]:
    """Seconds of one DreamBooth step with PEFT, and GiB."""
    from peft import LoraConfig

    from w2w_registry.diffusion.train import denoising_target

    unet = model.pipe.unet
    targets = ["to_q", "to_v"]
    unet.add_adapter(LoraConfig(r=1, lora_alpha=27.0, target_modules=targets, init_lora_weights="gaussian"), "bench")
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4)
    text = words.expand(samples, *words.shape)

    def step() -> None:
        x = latents[torch.randint(len(latents), (samples,))]
        noise = torch.randn_like(x)
        t = torch.randint(1000, (samples,), device=x.device)
        noisy, target = denoising_target(model.scheduler, x, noise, t)
        with torch.autocast(card.device.type, torch.bfloat16, enabled=bf16):
            out = unet(noisy.to(unet.dtype), t, text.to(unet.dtype)).sample
        loss = (out.float() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    step()
    _, seconds, peak = card.timed(lambda: [step() for _ in range(steps)])
    unet.unload_lora()
    unet.requires_grad_(False)
    return seconds / steps, peak


def invert_rows(card: Card, size: Size) -> Iterator[Row]:
    from w2w_registry.diffusion.invert import InvertConfig, SpaceBasis, invert

    model, layout, words, latents = studio(card, size)
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.standard_normal((layout.dim, size.components), np.float32))
    mean = np.zeros(layout.dim, np.float32)
    arrays = {"mean": mean, "std": np.full(layout.dim, 0.01, np.float32), "components": axes.astype(np.float32)}
    spread = np.arange(1, size.components + 1, dtype=np.float32) ** -0.5
    basis = SpaceBasis.of(layout, mean, arrays["std"], axes, spread, device=card.device, dtype=model.dtype)
    config = InvertConfig(steps=20 if not size.small else 2, samples=4, bf16=card.device.type == "cuda")
    photos = latents[torch.arange(size.photos) % len(latents)]
    batch = min(8, size.photos)

    def ours() -> None:
        for first in range(0, size.photos, batch):
            invert(model, basis, photos[first : first + batch], Conditioning(words), config)

    _, seconds, peak = card.timed(ours)
    steps = 20 if not size.small else 1
    slow = paper_steps(card, model, layout, arrays, latents[0], words, steps)
    quality = {"GiB": peak, "paper's steps timed of 400": steps}
    shown = {"photos": size.photos, "side by side": batch, "components": size.components}
    yield Row("inversion, a photo", seconds / size.photos, slow * 400 / steps, "the paper's way", quality, shown)


def paper_steps(
    card: Card,
    model: DiffusionModel,
    layout: Layout,
    arrays: dict[str, np.ndarray],
    photo: Tensor,
    words: Tensor,
    steps: int,
) -> float:
    """Seconds of some steps of the paper's way: coordinates through every module, one noisy copy a step."""
    from w2w_registry.diffusion.train import denoising_target

    axes = torch.from_numpy(arrays["components"]).to(card.device)
    point = torch.zeros(axes.shape[1], device=card.device, requires_grad=True)
    optimiser = torch.optim.Adam([point], lr=0.1, weight_decay=1e-10)

    def step() -> None:
        noise = torch.randn_like(photo)[None]
        t = torch.randint(1000, (1,), device=card.device)
        noisy, target = denoising_target(model.scheduler, photo[None], noise, t)
        with model.bank(layout).apply((0.01 * (axes @ point))[None]):
            out = model.unet(noisy.to(model.dtype), t, words[None].to(model.dtype)).sample
        loss = (out.float() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    step()
    return card.timed(lambda: [step() for _ in range(steps)])[1]


def studio(card: Card, size: Size) -> tuple[DiffusionModel, Layout, Tensor, Tensor]:
    """A UNet of Stable Diffusion 1.5's shapes with random weights, its layout, a prompt and four photos' latents."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    shapes: dict[str, Any] = {"cross_attention_dim": 768, "sample_size": 64}
    if size.small:
        shapes = {"cross_attention_dim": 32, "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1}
        shapes |= {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 8}
        shapes |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 4}
    unet = UNet2DConditionModel(**shapes).to(card.device).requires_grad_(False).eval()
    if card.device.type == "cuda":
        unet = unet.to(torch.bfloat16)
    pipe = SimpleNamespace(unet=unet, scheduler=DDIMScheduler())
    model = DiffusionModel(pipe, "bench", None, card.device, unet.dtype)
    side = int(shapes["sample_size"])
    words = torch.randn((77, int(shapes["cross_attention_dim"])), device=card.device)
    return model, layout_from(unet), words, torch.randn((4, 4, side, side), device=card.device)


def layout_from(unet: Any) -> Layout:
    """Rank 1 on ``to_q`` and ``to_v`` of every attention, as the paper's."""
    found: dict[Any, tuple[int, ...]] = {}
    for name, module in unet.named_modules():
        if name.endswith((".to_q", ".to_v")):
            found[(name, "A")], found[(name, "B")] = (1, module.in_features), (module.out_features, 1)
    return layout_of(found, 27.0)


def sd15_layout() -> Layout:
    """99,648 parameters, without making the UNet."""
    found: dict[Any, tuple[int, ...]] = {}
    blocks = [(f"down_blocks.{i}", d, 2) for i, d in enumerate((320, 640, 1280))] + [("mid_block", 1280, 1)]
    blocks += [(f"up_blocks.{i + 1}", d, 3) for i, d in enumerate((1280, 640, 320))]
    for block, width, layers in blocks:
        for layer in range(layers):
            for attention, source in (("attn1", width), ("attn2", 768)):
                for part, read in (("to_q", width), ("to_v", source)):
                    name = f"{block}.attentions.{layer}.transformer_blocks.0.{attention}.{part}"
                    found[(name, "A")], found[(name, "B")] = (1, read), (width, 1)
    return layout_of(found, 27.0)


def small_layout() -> Layout:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    return layout_of({(name, "A"): (1, 200), (name, "B"): (200, 1)}, 27.0)


# -- search -------------------------------------------------------------------------------------
def search_rows(card: Card, size: Size) -> Iterator[Row]:
    rows = torch.nn.functional.normalize(torch.randn((size.vectors, size.components), device=card.device), dim=1)
    for queries in (1, 1_000):
        asked = rows[:queries].clone()
        (scores, _), seconds, peak = card.timed(lambda asked=asked: (asked @ rows.T).topk(10, dim=1))
        quality = {"found itself": float((scores[:, 0] > 0.999).float().mean()), "GiB": peak}
        shown = {"rows": size.vectors, "components": size.components, "queries": queries}
        yield Row("search, brute force", seconds, None, "", quality, shown)


BENCHMARKS: dict[str, Callable[[Card, Size], Iterator[Row]]] = {
    "train": train_rows,
    "invert": invert_rows,
    "search": search_rows,
    "fit": fit_rows,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--small", action="store_true", help="small shapes")
    options.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    options.add_argument("--json", metavar="FILE", type=Path, help="write the rows to FILE")
    options.add_argument("--only", action="append", choices=sorted(BENCHMARKS), help="only these; may be repeated")
    asked = options.parse_args(arguments)
    card, size = Card(asked.device), SMALL if asked.small else FULL
    rows: list[Row] = []
    failed: list[str] = []
    for name in asked.only or BENCHMARKS:
        try:
            for row in BENCHMARKS[name](card, size):
                print(frame.line(row), file=sys.stderr, flush=True)
                rows.append(row)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    print(frame.table(rows))
    if asked.json:
        asked.json.write_text(frame.dump(rows))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
