"""How much two pictures show the same identity: one protocol, and an adapter for real photos.

An ``IdentityScorer`` turns pictures into unit vectors whose inner product is the identity score.  The mini world's
readers are one; ``EmbeddingScorer`` wraps any image embedding of the transformers library (CLIP, DINOv2, SigLIP, or a
face recogniser saved in that form) from a local folder or the Hub cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from w2w_registry.diffusion.pipeline import Device, memory_guard, pick_device
from w2w_registry.errors import MissingExtra, NotFound

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]


@runtime_checkable
class IdentityScorer(Protocol):
    """``name`` says which, for the record; ``embed`` maps pictures (H, W, 3) uint8 to unit vectors (N, d)."""

    @property
    def name(self) -> str: ...

    def embed(self, pictures: Sequence[Pixels]) -> Vectors: ...


def score(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Identity score (N,) of unit vectors (N, d): 1 for the same, about 0 for strangers."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return np.asarray((a * b).sum(-1))


def between(drawn: Vectors, real: Vectors) -> float:
    """Mean score of every drawn picture (N, d) with every real photo (M, d) of one identity, as the paper reports."""
    return float((drawn.astype(np.float64) @ real.astype(np.float64).T).mean())


def consistency(drawn: Vectors) -> float:
    """Mean score among different pictures (N, d) of one identity: does it stay itself over seeds?"""
    n = len(drawn)
    if n < 2:
        raise ValueError("consistency needs at least two pictures")
    among = drawn.astype(np.float64) @ drawn.astype(np.float64).T
    return float((among.sum() - np.trace(among)) / (n * (n - 1)))


class EmbeddingScorer:
    """An image model of the transformers library as a scorer.

    ``centre`` (d,), the mean embedding of many people, is subtracted when given: general embeddings put every portrait
    close together, and only what differs from the average portrait tells people apart.
    """

    def __init__(self, source: str | Path, *, device: Device = "auto", centre: Vectors | None = None) -> None:
        """Open a model folder or a Hub id.

        Raises:
            MissingExtra: transformers is not installed. NotFound: no such model. DeviceError: no such device.
        """
        try:
            from transformers import AutoImageProcessor, AutoModel
        except ImportError:
            raise MissingExtra(package="transformers", extra="diffusion", feature="scoring real photos") from None
        self._device = pick_device(device)
        self._source = str(source)
        if os.path.exists(self._source) and not os.path.isdir(self._source):  # else it would be asked for on the Hub
            raise NotFound(what="image embedding model", name=self._source, reason="it is not a folder")
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(self._source)
            self._model: Any = AutoModel.from_pretrained(self._source).eval().to(self._device)
        except (OSError, ValueError) as error:
            raise NotFound(what="image embedding model", name=self._source, reason=str(error).splitlines()[0]) from None
        self._centre = centre

    @property
    def name(self) -> str:
        return self._source

    @torch.inference_mode()
    def embed(self, pictures: Sequence[Pixels], batch: int = 16) -> Vectors:
        """Unit vectors (N, d) float32: the model's image features, or its pooled output when it has none."""
        from PIL import Image

        parts = []
        with memory_guard(self._device, "score fewer pictures at once"):
            for start in range(0, len(pictures), batch):
                images = [Image.fromarray(p) for p in pictures[start : start + batch]]
                inputs = self._processor(images=images, return_tensors="pt").to(self._device)
                parts.append(_pooled(self._model, inputs["pixel_values"]).float().cpu().numpy())
        found = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
        if self._centre is not None:
            found = found - self._centre
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(found / np.where(length > 0, length, 1.0), np.float32)


def _pooled(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    out: Any = model.get_image_features(pixel_values=pixels) if hasattr(model, "get_image_features") else model(pixels)
    if isinstance(out, torch.Tensor):
        return out
    pooled: torch.Tensor | None = getattr(out, "pooler_output", None)
    return out.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)
