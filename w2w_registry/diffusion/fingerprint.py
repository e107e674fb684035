"""What an adapter makes the base model draw, in 512 floats: its fingerprint (DESIGN §3).

The UNet is asked once, at a fixed input of mostly noise, what it would draw; the base model's own answer is taken
away, and the difference in the predicted picture is projected by a fixed random matrix. At that noise there is little
to go by but the adapter, so the answer is the mean of what it has learned. Whatever rank, modules, starting point or
tool an adapter comes from, fingerprints of one base model can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2w_registry.diffusion.adapters import Adapter, alike, applied, read_adapter
from w2w_registry.diffusion.families import Conditioning
from w2w_registry.diffusion.pipeline import DiffusionModel
from w2w_registry.space.layout import Layout

__all__ = ["BATCH", "NOISE", "PROBES", "WIDTH", "Adapter", "fingerprints", "of_thetas", "read_adapter"]

Float32 = NDArray[np.float32]

PROBES: Final = "x0-0.9-512"
"""Names everything below that a fingerprint depends on, beside the base model and the prompt."""
NOISE: Final = 0.9
"""Where in the schedule to ask. Nearer to pure noise every adapter answers with the mean of what it learned, and those
of rank 4 and those with a text encoder are told apart less well; nearer to the picture the noise decides too much
(chosen among 0.8 to 0.98 on people who judge nothing; docs/metric.md)."""
WIDTH: Final = 512
BATCH: Final = 32
_SEED: Final = 20260101


def fingerprints(
    model: DiffusionModel,
    adapters: Sequence[Adapter],
    prompt: str,
    *,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Float32:
    """(n, 512) float32, one row per adapter.

    Raises:
        BadLora: an adapter does not fit the base model.
    """
    probe = _probe(model, prompt)
    out = np.zeros((len(adapters), WIDTH), np.float32)
    done = 0
    for numbers in alike(model, adapters, batch):
        out[numbers] = probe([adapters[n] for n in numbers])
        done += len(numbers)
        if progress is not None:
            progress(done, len(adapters))
    return out


def of_thetas(model: DiffusionModel, layout: Layout, thetas: Float32, prompt: str, *, batch: int = BATCH) -> Float32:
    """(n, 512) for plain LoRAs ``thetas`` (n, D) of one layout."""
    return fingerprints(model, [Adapter(layout, theta) for theta in thetas], prompt, batch=batch)


def _probe(model: DiffusionModel, prompt: str) -> Probe:
    """The question, asked of the base model itself once."""
    key = ("probe", prompt, model.scheduler.config.prediction_type)
    if key not in model.memo:
        model.memo[key] = Probe(model, prompt)
    found: Probe = model.memo[key]
    return found


class Probe:
    """The fixed question to one base model, and its own answer."""

    def __init__(self, model: DiffusionModel, prompt: str, *, noise: float = NOISE, seed: int = _SEED) -> None:
        self.model, self.prompt = model, prompt
        scheduler = model.scheduler
        self.t = torch.tensor(round(noise * scheduler.config.num_train_timesteps) - 1, device=model.device)
        shape = model.latent_shape
        start = np.random.Generator(np.random.Philox(seed)).standard_normal((1, *shape)).astype(np.float32)
        self.x = torch.from_numpy(start).to(model.device)
        self.scale = _reach(scheduler, self.t)
        self.matrix = torch.from_numpy(_projection(int(np.prod(shape)))).to(model.device)
        self.words = model.encode_text(prompt)
        self.own = self._ask(self.words, self.words.text[None])

    def __call__(self, adapters: Sequence[Adapter]) -> Float32:
        with applied(self.model, adapters, self.prompt, self.words) as (words, texts):
            answer = self._ask(words, texts)
        moved = (answer - self.own) * self.scale
        found: Float32 = (moved.flatten(1) @ self.matrix).cpu().numpy()
        return found

    @torch.no_grad()
    def _ask(self, words: Conditioning, texts: Tensor) -> Tensor:
        """The model's answers (n, C, h, w) to embeddings (n, L, E)."""
        kind = self.model.dtype
        with self.model.conditioned(words):
            x = self.x.to(kind).expand(len(texts), *self.x.shape[1:])
            answer: Tensor = self.model.unet(x, self.t, texts.to(kind)).sample
        return answer.float()


def _reach(scheduler: Any, t: Tensor) -> float:
    """How far the predicted picture moves when the prediction moves by one."""
    kind = scheduler.config.prediction_type
    if kind == "flow":  # x = z − σ v
        return -float(scheduler.sigma(t))
    alpha = float(scheduler.alphas_cumprod[int(t)])
    signal, sigma = max(alpha, 0.0) ** 0.5, (1 - alpha) ** 0.5
    reach = {"v_prediction": -sigma, "epsilon": -sigma / max(signal, 1e-3), "sample": 1.0}
    return float(reach[str(kind)])


@lru_cache(maxsize=2)
def _projection(size: int) -> Float32:
    """(size, 512): entries N(0, 1/512), so that lengths are kept on average (Johnson & Lindenstrauss 1984)."""
    random = np.random.Generator(np.random.Philox(_SEED + 1))
    return (random.standard_normal((size, WIDTH), dtype=np.float32) / np.float32(WIDTH**0.5)).astype(np.float32)
