"""A training run on disk and back, so that a killed one goes on where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from w2w_registry.diffusion.train import TrainState


def to_bytes(state: TrainState) -> bytes:
    """The whole state as one safetensors file."""
    return bytes(save({k: v.detach().to("cpu").contiguous().clone() for k, v in state.to_tensors().items()}))


def load(path: Path, device: torch.device) -> TrainState | None:
    """The state saved at ``path``, on ``device``; None when there is none."""
    if not path.exists():
        return None
    tensors = load_file(str(path))
    losses = tensors["losses"]
    moved = {k: v.to(device) for k, v in tensors.items()}
    return TrainState.from_tensors({**moved, "losses": losses})


def as_tensor(theta: NDArray[np.float32], device: torch.device) -> Tensor:
    """θ on a device."""
    return torch.from_numpy(np.array(theta, np.float32)).to(device)
