"""Many LoRAs in one forward pass: every sample of a batch uses its own identity's A and B (DESIGN §3).

The bank is functional: θ is an ordinary tensor that may need a gradient or be the result of a projection, so the same
code trains identities, inverts photos into coordinates and draws straight from coordinates.  Nothing is merged into
the model; hooks are installed for the length of a ``with`` block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2w_registry.space.layout import Layout


@dataclass(frozen=True)
class _Site:
    """One LoRA module: the Linear, its place in θ and its alpha / rank."""

    linear: nn.Module
    start_a: int
    shape_a: tuple[int, int]
    start_b: int
    shape_b: tuple[int, int]
    scale: float


class LoraBank:
    """The LoRA modules of ``layout`` found in ``model`` (a diffusers UNet, or any module with those names).

    Raises ValueError when the model lacks a module, a module is no Linear, or a shape differs.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self.model = model
        self.layout = layout
        places = {tensor.key: (tensor, part.start) for tensor, part in layout.slices()}
        named = dict(model.named_modules())
        self._sites: list[_Site] = []
        for name in layout.modules:
            linear = named.get(name)
            if linear is None:
                raise ValueError(f"the model has no module {name}")
            out_features, in_features = getattr(linear, "out_features", None), getattr(linear, "in_features", None)
            if out_features is None or in_features is None:
                raise ValueError(f"{name} is no Linear")
            (a, start_a), (b, start_b) = places[name, "A"], places[name, "B"]
            if a.shape[1:] != (in_features,) or b.shape[:1] != (out_features,) or a.shape[0] != b.shape[1]:
                raise ValueError(f"{name}: A {a.shape} and B {b.shape} do not fit {in_features} → {out_features}")
            shape_a, shape_b = (a.shape[0], a.shape[1]), (b.shape[0], b.shape[1])
            self._sites.append(_Site(linear, start_a, shape_a, start_b, shape_b, layout.scale(name)))

    @property
    def outputs(self) -> int:
        """M, how many output features the modules have together: the length of a DoRA's magnitudes."""
        return sum(site.shape_b[0] for site in self._sites)

    @contextmanager
    def apply(self, theta: Tensor, group: Tensor | None = None, magnitudes: Tensor | None = None) -> Iterator[None]:
        """Inside the block, sample n of every batch uses the LoRA ``theta[group[n]]``.

        ``theta`` is (G, D), or (D,) for one identity; gradients flow into it.  ``group`` is (N,) int64; without it
        samples belong to identities in equal consecutive runs (N = G·S, sample n to identity n // S), which is also
        the fastest way.  A batch that is a multiple of N, as classifier-free guidance makes it, repeats ``group``.
        ``magnitudes`` (G, M) makes DoRAs of them: every row of W + ΔW gets the length given for it.
        """
        if theta.ndim == 1:
            theta = theta[None]
        if theta.ndim != 2 or theta.shape[1] != self.layout.dim:
            raise ValueError(f"θ has shape {tuple(theta.shape)}, the layout needs (G, {self.layout.dim})")
        if magnitudes is not None and magnitudes.shape != (len(theta), self.outputs):
            raise ValueError(f"magnitudes have shape {tuple(magnitudes.shape)}, not ({len(theta)}, {self.outputs})")
        hooks = []
        lengths = [site.shape_b[0] for site in self._sites]
        rows = [None] * len(lengths) if magnitudes is None else torch.split(magnitudes, lengths, dim=1)
        sizes = [tensor.size for tensor in self.layout.tensors]
        # One split, so that the backward pass joins the gradients of all modules once.
        pieces = dict(zip((t.key for t in self.layout.tensors), torch.split(theta, sizes, dim=1), strict=True))
        try:
            for site, name, length in zip(self._sites, self.layout.modules, rows, strict=True):
                a = pieces[name, "A"].reshape(-1, *site.shape_a)
                b = pieces[name, "B"].reshape(-1, *site.shape_b)
                gain = None if length is None else length / _norms(_weight(site.linear), a, b, site.scale)
                hooks.append(site.linear.register_forward_hook(_hook(a, b, site.scale, group, gain)))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _weight(linear: nn.Module) -> Tensor:
    """(out, in) float32."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    return weight.detach().float()


@torch.no_grad()
def _norms(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Lengths (G, out) of the rows of W + scale · B A, expanded so that no dense ΔW is made.

    They carry no gradient (DoRA, arXiv 2402.09353, §4.3).
    """
    a, b = a.float(), scale * b.float()
    crossed = (torch.matmul(weight, a.transpose(1, 2)) * b).sum(2)
    own = (torch.bmm(b, torch.bmm(a, a.transpose(1, 2))) * b).sum(2)
    return (weight.square().sum(1) + 2.0 * crossed + own).clamp_min(1e-20).sqrt()


def _hook(a: Tensor, b: Tensor, scale: float, group: Tensor | None, gain: Tensor | None) -> Any:
    """A forward hook that adds ``scale · (x Aᵀ) Bᵀ``; ``a`` is (G, r, in), ``b`` is (G, out, r).

    ``gain`` (G, out) then multiplies the output, all but its bias.
    """

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x: Tensor = inputs[0]
        left, right = a.to(x.dtype), b.to(x.dtype)
        factor = None if gain is None else gain.to(x.dtype)
        batch = x.shape[0]
        if group is not None:
            if batch % len(group):
                raise ValueError(f"a batch of {batch} is not a multiple of the {len(group)} samples in the group")
            chosen = group.to(x.device).repeat(batch // len(group))
            left, right = left[chosen], right[chosen]
            factor = None if factor is None else factor[chosen]
        elif batch % len(left):
            raise ValueError(f"a batch of {batch} does not split over {len(left)} identities")
        flat = x.reshape(len(left), -1, x.shape[-1])
        # The scale goes onto the smallest operand.
        low = torch.bmm(flat, left.transpose(1, 2)) * scale
        rows = output.reshape(len(left), -1, output.shape[-1])
        changed = torch.baddbmm(rows, low, right.transpose(1, 2))
        if factor is not None:
            bias = getattr(module, "bias", None)
            alone = 0.0 if bias is None else bias.detach()
            changed = (changed - alone) * factor[:, None] + alone
        return changed.reshape(output.shape)

    return hook
