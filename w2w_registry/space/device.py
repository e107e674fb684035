"""θ on a card: the one place of the fit that knows torch. Loaded when a device other than the CPU is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import DeviceError, MissingExtra
from w2w_registry.space.rows import forget

_STAGED = 1 << 25  # numbers that are copied at once
_SHARE = 0.6  # of the card's free memory that θ may take


def on_device(thetas: NDArray[np.float32], device: str) -> Any:
    """θ (n, D) for ``space.fit.fit`` to compute on ``device``.

    It is θ itself for ``cpu``; a tensor there when that fits with room to compute; else blocks that are copied there
    each time they are read.

    Raises:
        MissingExtra: torch is not installed. DeviceError: there is no such device.
    """
    if device == "cpu":
        return thetas
    try:
        import torch
    except ImportError:
        raise MissingExtra(package="torch", extra="diffusion", feature=f"computing on {device}") from None
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError):
        raise DeviceError(device=device, reason="there is no such device here", hint="use [[device]] cpu") from None
    # One float32 product is what the fit counts on; TF32 keeps 10 bits of it.
    torch.backends.cuda.matmul.allow_tf32 = False
    free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else None
    blocks = Staged(thetas, place)
    if free is not None and thetas.nbytes > _SHARE * free:
        return blocks
    held = torch.empty(thetas.shape, dtype=torch.float32, device=place)
    first = 0
    for block in blocks:
        held[first : first + len(block)] = block
        first += len(block)
    return held


class Staged:
    """Row blocks of θ on a device, the next one copied while the last is computed with."""

    def __init__(self, thetas: NDArray[np.float32], device: Any) -> None:
        self._thetas, self._device = thetas, device

    def __iter__(self) -> Iterator[Any]:
        import torch

        step = max(1, _STAGED // max(1, self._thetas.shape[1]))
        pinned = self._device.type == "cuda"
        for first in range(0, len(self._thetas), step):
            part = self._thetas[first : first + step]
            block = torch.empty(part.shape, dtype=torch.float32, pin_memory=pinned)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*not writable")  # it is only read
                block.copy_(torch.from_numpy(part))  # by every thread that torch has
            forget(self._thetas)
            yield block.to(self._device, non_blocking=pinned)
