"""What a fingerprint costs against one picture of 30 steps, by kind of adapter, many at a time and alone.

``python -m examples.miniworld.fingerprint_cost`` prints CPU seconds on one thread, medians of several runs in turn, and
what all shipped LoRAs cost together.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file

from examples.miniworld.train_foreign import KINDS, gaussian, kind_layout, text_layout
from examples.miniworld.unpack import DATA, load_loras
from w2w_registry.diffusion.bank import LoraBank
from w2w_registry.diffusion.fingerprint import BATCH, Adapter, fingerprints, read_adapter
from w2w_registry.diffusion.generate import Recipe, Shot, draw
from w2w_registry.diffusion.pipeline import DiffusionModel, load_model

PROMPT: Final = "photo of sks person"
RUNS: Final = 5


def adapters(model: DiffusionModel) -> dict[str, Adapter]:
    """One of every kind, with the shapes that are measured (what they draw costs nothing)."""
    found = {}
    for name in ("rank1-own-start", "rank4-qkvo", "rank16-qv", "dora", "text-encoder"):
        kind = KINDS[name]
        layout = kind_layout(model.unet, kind)
        theta = gaussian(layout, 1).numpy()
        found[name] = Adapter(layout, theta)
        if kind.dora:
            found[name] = replace(found[name], magnitudes=LoraBank(model.unet, layout).row_norms().numpy())
        if kind.text_rank:
            words = text_layout(model.pipe.text_encoder, kind)
            found[name] = replace(found[name], text=(words, gaussian(words, 2).numpy()))
    return found


def _convolutions(model: DiffusionModel, folder: Path) -> Adapter:
    """One that is added to the weights: it changes convolutions as well."""
    layout = kind_layout(model.unet, KINDS["rank4-qkvo"])
    state = {f"unet.{m}.lora_{f}.weight": torch.from_numpy(value.copy())
             for (m, f), value in layout.unflatten(gaussian(layout, 1).numpy()).items()}  # fmt: skip
    for name, module in model.unet.named_modules():
        if isinstance(module, torch.nn.Conv2d) and name.endswith("conv1"):
            state[f"unet.{name}.lora_A.weight"] = 1e-2 * torch.randn(4, module.in_channels, 3, 3)
            state[f"unet.{name}.lora_B.weight"] = 1e-2 * torch.randn(module.out_channels, 4, 1, 1)
    save_file(state, folder / "conv.safetensors")
    return read_adapter(folder / "conv.safetensors")


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    model, loras = load_model(DATA / "pipeline", device="cpu"), load_loras()
    recipe = Recipe(PROMPT, steps=30)
    pictures: list[float] = []

    def beside(work: Callable[[], object], runs: int = RUNS) -> tuple[float, float]:
        """Medians of the work and of a picture, in turn: what else the machine does falls on both alike."""
        both = [
            (cpu(work), cpu(lambda: draw(model, loras.layout, [Shot(loras.theta[0], 1)], recipe))) for _ in range(runs)
        ]
        pictures.extend(whole for _, whole in both)
        return statistics.median(one for one, _ in both), statistics.median(whole for _, whole in both)

    print("| adapter | among 32, s | of a picture | alone, s | of a picture |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        kinds = adapters(model) | {"rank 4 and convolutions": _convolutions(model, Path(folder))}
        for name, adapter in kinds.items():
            own = fingerprints(model, [adapter], PROMPT)
            assert np.isfinite(own).all()
            # The base model's own answer is asked once a batch: it belongs to what one alone costs.
            alone, whole = beside(lambda a=adapter: fingerprints(model, [a], PROMPT))
            batch, other = beside(lambda m=[adapter] * BATCH: fingerprints(model, m, PROMPT), 3)
            batched = batch / BATCH
            print(
                f"| {name} | {batched:.4f} | 1/{other / batched:.0f} | {alone:.4f} | 1/{whole / alone:.0f} |",
                flush=True,
            )
    every = [Adapter(loras.layout, theta) for theta in loras.theta]
    print(f"\n{len(every)} shipped LoRAs: {cpu(lambda: fingerprints(model, every, PROMPT)):.1f} s")
    print(f"one picture of 30 steps: {statistics.median(pictures):.3f} s")


if __name__ == "__main__":
    main()
