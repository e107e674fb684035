"""Data parallelism by hand: a few one-thread processes that average their gradients.

The networks here are so small that threads inside one operation cost more than they give; one process per core
does not.  Gradients travel through shared memory: sockets took as long as the step itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch


class Group:
    """The processes RANK = 0 … WORLD_SIZE - 1 (one alone without these variables) on one machine.

    Every process writes its gradients into its row of a shared file and waits for the others.  Rows are doubled: nobody
    can be more than one round ahead, so odd and even rounds never touch the same row.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], folder: Path = Path("/dev/shm")) -> None:
        torch.set_num_threads(1)
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.parameters = list(parameters)
        self.round = 0
        if self.world == 1:
            return
        key = os.environ["GROUP_KEY"]
        count = sum(p.numel() for p in self.parameters)
        size = 2 * self.world * count
        self.rows = torch.from_file(str(folder / f"{key}.rows"), True, size, dtype=torch.float32)
        self.rows = self.rows.view(2, self.world, count)
        self.rounds = torch.from_file(str(folder / f"{key}.rounds"), True, self.world, dtype=torch.int64)

    def average_gradients(self) -> None:
        """Replace every gradient by its mean over the group."""
        if self.world == 1:
            return
        rows = self.rows[self.round % 2]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch.cat([g.reshape(-1) for g in gradients], out=rows[self.rank])
        self.round += 1
        self.rounds[self.rank] = self.round
        while int(self.rounds.min()) < self.round:
            time.sleep(0.0005)
        flat = rows.mean(dim=0)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


class Average:
    """Exponential moving average of parameters, warmed up so that early steps do not linger."""

    def __init__(self, modules: Iterable[torch.nn.Module], decay: float) -> None:
        self.parameters = [p for module in modules for p in module.parameters()]
        self.shadow = [p.detach().clone() for p in self.parameters]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.shadow, self.parameters, 1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the live parameters (call again to undo)."""
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(shadow)
            shadow.copy_(kept)
