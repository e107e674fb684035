"""What kind of base model an adapter's own layers show, where nothing in its file says it."""

from __future__ import annotations

from collections.abc import Iterable

from w2w_registry.lora.change import Change

_BY_CONTEXT = {768: "sd-1", 1024: "sd-2", 2048: "sdxl"}
"""Numbers a token of the prompt has, where a UNet's cross-attention reads it (the models' own configurations)."""
_READS_PROMPT = (".attn2.to_k", ".attn2.to_v")


def unet_family(changes: Iterable[Change]) -> str | None:
    """``sd-1``, ``sd-2`` or ``sdxl`` by the width of the prompt that a UNet's layers read; None where no layer says it,
    or two disagree. Transformers share their layers' names and widths across makers, and are not told apart."""
    widths = {
        change.tensors["A"].shape[1]
        for change in changes
        if change.part == "unet" and "A" in change.tensors and change.module.endswith(_READS_PROMPT)
    }
    return _BY_CONTEXT.get(widths.pop()) if len(widths) == 1 else None
