"""Train the base model of the mini world: UNet and text encoder together, on cached latents of captioned photos.

``python -m examples.miniworld.train_unet cache`` freezes the encoder of ``vae.pt`` and caches latents;
``RANK=r WORLD_SIZE=n GROUP_KEY=unet python -m examples.miniworld.train_unet train`` in n processes trains, resumable;
``python -m examples.miniworld.train_unet save`` writes the diffusers folder, weights in fp16.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional as fn

from examples.miniworld import pipeline as parts
from examples.miniworld.parallel import Average, Group
from examples.miniworld.render import render
from examples.miniworld.train_vae import BUILD, new_vae, photos, to_float
from examples.miniworld.world import caption, sample_attributes, sample_nuisances

CAPTIONS = 6


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """(N, 32, 32, 3) uint8 to latents (N, 8, 8, 8) float32, the mode of the posterior."""
    out = [vae.encode(to_float(part)).latent_dist.mode() for part in pixels.split(256)]
    return torch.cat(out).contiguous()


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> np.ndarray:
    """Latents (N, 8, 8, 8) to (N, 32, 32, 3) uint8."""
    out = torch.cat([vae.decode(part).sample for part in latents.split(256)])
    return ((out.permute(0, 2, 3, 1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def cache(count: int) -> None:
    """Freeze the encoder: whitened VAE weights and latents, token ids of ``count`` captioned photos."""
    torch.set_num_threads(1)
    vae = new_vae().to(memory_format=torch.channels_last).eval()
    vae.load_state_dict(torch.load(BUILD / "vae.pt")["average"])
    z = encode(vae, photos(8192, 55)).transpose(0, 1).reshape(8, -1)
    parts.whiten(vae, z.mean(1), torch.cov(z))
    torch.save(vae.state_dict(), BUILD / "vae_white.pt")
    tokenizer = parts.write_tokenizer(BUILD / "tokenizer")
    attributes, nuisances = sample_attributes(count, 200), sample_nuisances(count, (200, 7))
    latents = encode(vae, torch.from_numpy(render(attributes, nuisances)))
    print("latents: mean", latents.mean().item(), "std", latents.std().item(), flush=True)
    rng = np.random.default_rng(3)
    texts = [caption(a, rng) for a in attributes for _ in range(CAPTIONS)]
    ids = parts.tokenise(tokenizer, texts).reshape(count, CAPTIONS, -1).to(torch.int16)
    torch.save({"latents": latents, "ids": ids}, BUILD / "cache.pt")


def train(steps: int, batch: int, lr: float, bf16: bool) -> None:
    """Joint training with captions dropped now and then, for classifier-free guidance."""
    torch.manual_seed(0)
    data = torch.load(BUILD / "cache.pt")
    tokenizer = parts.CLIPTokenizer.from_pretrained(BUILD / "tokenizer")
    empty = parts.tokenise(tokenizer, [""])[0]
    text_encoder = parts.new_text_encoder(tokenizer)
    unet = parts.new_unet()
    # Flash attention is slow backwards in bfloat16 on a CPU: it alone took longer than all the rest.
    unet.set_attn_processor(AttnProcessor())
    modules = [unet, text_encoder]
    alphas = parts.new_scheduler().alphas_cumprod
    parameters = [p for module in modules for p in module.parameters()]
    group = Group(parameters)
    rank = group.rank
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=1e-3)
    average = Average(modules, 0.9985)
    target, first = BUILD / "unet.pt", 0
    if target.exists():
        state = torch.load(target)
        for module, weights in zip(modules, state["live"], strict=True):
            module.load_state_dict(weights)
        optimiser.load_state_dict(state["optimiser"])
        average.shadow, average.steps, first = state["shadow"], state["steps"], state["steps"]
    generator = torch.Generator().manual_seed(1000 + rank + 10 * first)
    began, losses = time.time(), []
    for step in range(first, steps):
        rate = lr * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for options in optimiser.param_groups:
            options["lr"] = rate
        rows = torch.randint(len(data["latents"]), (batch,), generator=generator)
        ids = data["ids"][rows, torch.randint(CAPTIONS, (batch,), generator=generator)].long()
        ids[torch.rand(batch, generator=generator) < 0.1] = empty
        z = data["latents"][rows]
        strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        t = (strata * 1000).long().clamp_max(999)
        noise = torch.randn(z.shape, generator=generator)
        a = alphas[t].sqrt()[:, None, None, None]
        s = (1.0 - alphas[t]).sqrt()[:, None, None, None]
        noisy = a * z + s * noise
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            text = text_encoder(ids).last_hidden_state
            out = unet(noisy, t, text).sample
        loss = fn.mse_loss(out.float(), a * noise - s * z)
        optimiser.zero_grad()
        loss.backward()
        group.average_gradients()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.update()
        losses.append(loss.item())
        if rank == 0 and (step % 100 == 0 or step + 1 == steps):
            print(f"unet {step} loss {np.mean(losses[-100:]):.4f} {time.time() - began:.0f}s", flush=True)
        if rank == 0 and ((step + 1) % 500 == 0 or step + 1 == steps):
            state = {"live": [m.state_dict() for m in modules], "optimiser": optimiser.state_dict()}
            state |= {"shadow": average.shadow, "steps": step + 1}
            torch.save(state, target.with_suffix(".tmp"))
            target.with_suffix(".tmp").replace(target)


def save() -> None:
    """Write ``pipeline/`` from the averaged weights and the autoencoder of the cached latents."""
    torch.set_num_threads(1)
    tokenizer = parts.CLIPTokenizer.from_pretrained(BUILD / "tokenizer")
    unet, text_encoder, vae = parts.new_unet(), parts.new_text_encoder(tokenizer), new_vae()
    shadow = iter(torch.load(BUILD / "unet.pt")["shadow"])
    with torch.no_grad():
        for module in (unet, text_encoder):
            for parameter in module.parameters():
                parameter.copy_(next(shadow))
    vae.load_state_dict(torch.load(BUILD / "vae_white.pt"))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=parts.new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(BUILD / "pipeline", safe_serialization=True)
    # transformers computes in the precision a config names, diffusers in single; stored in half, both shall use single.
    config = BUILD / "pipeline" / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    # Older releases of transformers read these two instead of tokenizer.json.
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(BUILD / "tokenizer" / name, BUILD / "pipeline" / "tokenizer" / name)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=("cache", "train", "save"))
    parser.add_argument("--photos", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--fp32", action="store_true")
    args = parser.parse_args()
    if args.phase == "cache":
        cache(args.photos)
    elif args.phase == "train":
        train(args.steps, args.batch, args.lr, not args.fp32)
    else:
        save()


if __name__ == "__main__":
    main()
