"""The attribute readers: the mini world's "face recogniser", and its identity score.

A small convolutional network reads every attribute off a 32x32 photo.  The identity score of two photos is the cosine
of their standardised readings: each attribute minus its mean over the world, divided by its spread (both known by
construction).  Two photos of unrelated people score 0 on average, two of the same person near 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from examples.miniworld.world import ATTRIBUTES, BINARY, CONTINUOUS, Array

# Of a uniform value in [0, 1], and of a yes/no value with its rate.
MEAN: Final[Array] = np.array([0.5] * len(CONTINUOUS) + [b.rate for b in BINARY], np.float32)
SPREAD: Final[Array] = np.array(
    [12.0**-0.5] * len(CONTINUOUS) + [(b.rate * (1.0 - b.rate)) ** 0.5 for b in BINARY], np.float32
)


class Readers(nn.Module):
    """(N, 3, 32, 32) in [-1, 1] to (N, attributes): values in [0, 1] and, for yes/no attributes, logits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 24, 1), (24, 48, 2), (48, 96, 2), (96, 96, 1), (96, 128, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 192), nn.SiLU(), nn.Linear(192, len(ATTRIBUTES)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x))
        return out

    @torch.no_grad()
    def read(self, photos: NDArray[np.uint8]) -> Array:
        """Photos (N, 32, 32, 3) uint8 to readings (N, attributes) float32; yes/no attributes as probabilities."""
        parts = []
        for start in range(0, len(photos), 512):
            x = torch.from_numpy(np.ascontiguousarray(photos[start : start + 512])).float() / 127.5 - 1.0
            out = self(x.permute(0, 3, 1, 2))
            out[:, len(CONTINUOUS) :] = out[:, len(CONTINUOUS) :].sigmoid()
            parts.append(out.clamp(0.0, 1.0).numpy())
        return np.concatenate(parts) if parts else np.zeros((0, len(ATTRIBUTES)), np.float32)

    def embed(self, photos: NDArray[np.uint8]) -> Array:
        """Photos (N, 32, 32, 3) to unit vectors (N, attributes); their inner product is the identity score."""
        return unit(self.read(photos))

    def save(self, path: Path) -> None:
        """Write the weights as fp16 safetensors."""
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, path)


def unit(readings: Array) -> Array:
    """Readings (or true attributes) (N, attributes), standardised and scaled to length one."""
    standard = (readings - MEAN) / SPREAD
    return (standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def identity_score(first: Array, second: Array) -> Array:
    """Cosine (N,) of standardised readings (N, attributes): 1 the same, 0 what two strangers have on average."""
    score: Array = (unit(first) * unit(second)).sum(axis=1)
    return score


def load_readers(path: Path | str) -> Readers:
    """The shipped readers, in fp32."""
    readers = Readers()
    readers.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    return readers.eval()
