"""Adapters added into a pipeline's own weights for the length of a block: layers of any kind, one adapter at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from w2w_registry.lora import Change
from w2w_registry.space.layout import Layout

UNET: Final = "unet"
TEXT: Final = "text_encoder"
PARTS: Final = (UNET, TEXT)
"""The parts of a pipeline whose changes the registry applies by itself."""
_TEXT_MODEL: Final = "text_model."


@contextmanager
def merged(pipe: Any, changes: Sequence[Change]) -> Iterator[None]:
    """Inside the block the pipeline's weights have every ΔW of ``changes`` added; afterwards they are bit for bit what
    they were.

    Raises:
        ValueError: a layer is not there, or of another shape; nothing has changed then.
    """
    parts = {name: getattr(pipe, name, None) for name in {change.part for change in changes}}
    named = {name: {} if part is None else dict(part.named_parameters()) for name, part in parts.items()}
    todo = [(_parameter(named[change.part], change), change) for change in changes]
    kept: list[tuple[nn.Parameter, Tensor]] = []
    try:
        with torch.no_grad():
            for parameter, change in todo:
                factors = change.factors()
                if factors is None or len(factors[0]) * factors[1].shape[1] != parameter.numel():
                    raise ValueError(f"what {change.module} is changed by does not fit it")
                kept.append((parameter, parameter.detach().clone()))
                b, a = (torch.from_numpy(factor.astype(np.float32)).to(parameter.device) for factor in factors)
                parameter.add_((b @ a).reshape(parameter.shape).to(parameter.dtype))
        yield
    finally:
        with torch.no_grad():
            for parameter, before in reversed(kept):
                parameter.copy_(before)


def _parameter(named: Mapping[str, nn.Parameter], change: Change) -> nn.Parameter:
    end = "bias" if change.kind == "bias" else "weight"
    name = next((n for n in names_in_text(change.module) if f"{n}.{end}" in named), None)
    if name is None:
        raise ValueError(f"the model has no module {change.module}")
    return named[f"{name}.{end}"]


def names_in_text(module: str) -> tuple[str, str, str]:
    """What a module of a text encoder may be called: transformers 5 dropped the ``text_model.`` in front."""
    bare = module.removeprefix(_TEXT_MODEL)
    return module, bare, _TEXT_MODEL + bare


def as_named_in(encoder: nn.Module, layout: Layout) -> Layout:
    """``layout`` with the text encoder's own names."""
    there = {name for name, _ in encoder.named_modules()}
    return Layout(
        tuple(
            replace(t, module=next((n for n in names_in_text(t.module) if n in there), t.module))
            for t in layout.tensors
        ),
        layout.alpha,
    )
