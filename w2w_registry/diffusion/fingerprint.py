"""What an adapter makes the base model draw, in 512 floats: its fingerprint (DESIGN §3).

The UNet is asked twice, at fixed inputs of mostly noise, what it would draw; the base model's own answers are taken
away, and the differences in the predicted pictures are projected together by a fixed random matrix. At that noise there
is little to go by but the adapter, so the answer is the mean of what it has learned. Whatever rank, modules, starting
point or tool an adapter comes from, fingerprints of one base model can be compared.
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

__all__ = [
    "BATCH",
    "NOISE",
    "ONE_PROBE",
    "PROBES",
    "QUESTIONS",
    "WIDTH",
    "Adapter",
    "Probe",
    "fingerprints",
    "of_thetas",
    "read_adapter",
]

Float32 = NDArray[np.float32]

WIDTH: Final = 512
BATCH: Final = 32
_SEED: Final = 20260101

NOISE: Final = 0.9
"""Where in the schedule to ask first. Nearer to pure noise every adapter answers with the mean of what it learned, and
those of rank 4 and those with a text encoder are told apart less well; nearer to the picture the noise decides too much
(chosen among 0.8 to 0.98 on people who judge nothing; docs/metric.md)."""
PROBES: Final = "x2-0.9+0.8-512"
"""Names everything below that a fingerprint depends on, beside the base model and the prompt."""
ONE_PROBE: Final = "x0-0.9-512"
"""What earlier releases asked: registries that hold answers to it go on asking it."""
QUESTIONS: Final = {PROBES: ((NOISE, _SEED), (0.8, 1)), ONE_PROBE: ((NOISE, _SEED),)}
"""Each set of probes: the noises asked at, and the seeds of the inputs. A second one at another noise halves what the
door misses or has to hold; four bring no more (docs/door.md)."""
_SMALL: Final = 4096
"""Up to so many numbers the projection's columns are made orthogonal, which costs a moment and loses least."""


def fingerprints(
    model: DiffusionModel,
    adapters: Sequence[Adapter],
    prompt: str,
    *,
    probes: str = PROBES,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Float32:
    """(n, 512) float32, one row per adapter. ``probes``: one of ``QUESTIONS``.

    Raises:
        BadLora: an adapter does not fit the base model.
    """
    probe = _probe(model, prompt, probes)
    out = np.zeros((len(adapters), WIDTH), np.float32)
    done = 0
    for numbers in alike(model, adapters, batch):
        out[numbers] = probe([adapters[n] for n in numbers])
        done += len(numbers)
        if progress is not None:
            progress(done, len(adapters))
    return out


def of_thetas(
    model: DiffusionModel, layout: Layout, thetas: Float32, prompt: str, *, probes: str = PROBES, batch: int = BATCH
) -> Float32:
    """(n, 512) for plain LoRAs ``thetas`` (n, D) of one layout."""
    return fingerprints(model, [Adapter(layout, theta) for theta in thetas], prompt, probes=probes, batch=batch)


def _probe(model: DiffusionModel, prompt: str, probes: str) -> Probe:
    """The question, asked of the base model itself once."""
    key = ("probe", prompt, probes, model.scheduler.config.prediction_type)
    if key not in model.memo:
        model.memo[key] = Probe(model, prompt, QUESTIONS[probes], orthogonal=probes != ONE_PROBE)
    found: Probe = model.memo[key]
    return found


class Probe:
    """Fixed questions to one base model, and its own answers. ``asked``: noises and seeds."""

    def __init__(
        self, model: DiffusionModel, prompt: str, asked: Sequence[tuple[float, int]], *, orthogonal: bool = True
    ) -> None:
        self.model, self.prompt = model, prompt
        scheduler, shape = model.scheduler, model.latent_shape
        size = len(asked) * int(np.prod(shape))
        self.matrix = torch.from_numpy(_projection(size, orthogonal and size <= _SMALL)).to(model.device)
        self.words = model.encode_text(prompt)
        steps = [round(noise * scheduler.config.num_train_timesteps) - 1 for noise, _ in asked]
        starts = [np.random.Generator(np.random.Philox(seed)).standard_normal(shape) for _, seed in asked]
        self.steps = torch.tensor(steps, device=model.device)
        self.inputs = torch.from_numpy(np.stack(starts).astype(np.float32)).to(model.device)
        self.reach = torch.tensor([_reach(scheduler, t) for t in self.steps], device=model.device)
        self.own = self._answers(self.words, self.words.text[None])[0]

    def __call__(self, adapters: Sequence[Adapter]) -> Float32:
        with applied(self.model, adapters, self.prompt, self.words) as (words, texts):
            found: Float32 = (self.moved(words, texts) @ self.matrix).cpu().numpy()
        return found

    def moved(self, words: Conditioning, texts: Tensor) -> Tensor:
        """How far the predicted pictures have moved from the base model's own (n, numbers of all)."""
        moves = (self._answers(words, texts) - self.own) * self.reach[:, None, None, None]
        return moves.flatten(1)

    @torch.no_grad()
    def _answers(self, words: Conditioning, texts: Tensor) -> Tensor:
        """The model's answers (n, questions, C, h, w) to embeddings (n, L, E): in one call where few are asked, which
        costs one alone little more than one question would."""
        kind, count = self.model.dtype, len(self.steps)
        together = len(texts) * count <= BATCH
        found = []
        for part in [slice(None)] if together else [slice(i, i + 1) for i in range(count)]:
            x, t = self.inputs[part].to(kind), self.steps[part]
            many = x.repeat(len(texts), 1, 1, 1)
            with self.model.conditioned(words):
                said = self.model.unet(many, t.repeat(len(texts)), texts.to(kind).repeat_interleave(len(x), 0)).sample
            found.append(said.float().reshape(len(texts), len(x), *said.shape[1:]))
        return torch.cat(found, 1)


def _reach(scheduler: Any, t: Tensor) -> float:
    """How far the predicted picture moves when the prediction moves by one."""
    kind = scheduler.config.prediction_type
    if kind == "flow":  # x = z − σ v
        return -float(scheduler.sigma(t))
    alpha = float(scheduler.alphas_cumprod[int(t)])
    signal, sigma = max(alpha, 0.0) ** 0.5, (1 - alpha) ** 0.5
    reach = {"v_prediction": -sigma, "epsilon": -sigma / max(signal, 1e-3), "sample": 1.0}
    return float(reach[str(kind)])


@lru_cache(maxsize=4)
def _projection(size: int, orthogonal: bool) -> Float32:
    """(size, 512): entries N(0, 1/512), so that lengths are kept on average (Johnson & Lindenstrauss 1984); the columns
    (or, of fewer numbers than 512, the rows) made ``orthogonal``, so that what is in them is kept exactly."""
    random = np.random.Generator(np.random.Philox(_SEED + 1))
    matrix = (random.standard_normal((size, WIDTH), dtype=np.float32) / np.float32(WIDTH**0.5)).astype(np.float32)
    if not orthogonal:
        return matrix
    tall = matrix.astype(np.float64) if size >= WIDTH else matrix.T.astype(np.float64)
    q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))  # which signs a QR gives is each library's own
    return np.asarray((q if size >= WIDTH else q.T) * max(1.0, size / WIDTH) ** 0.5, np.float32)
