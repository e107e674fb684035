"""Kinds of base model: what differs between a UNet with a noise schedule and a transformer that learned a flow.

One file a family, each an object with the methods of ``protocol.Family``. ``DiffusionModel`` asks its family; nothing
else of the package asks which family a model is of.
"""

from __future__ import annotations

from typing import Any

from w2w_registry.diffusion.families.flux import Flux
from w2w_registry.diffusion.families.protocol import Conditioning, Family
from w2w_registry.diffusion.families.sd3 import StableDiffusion3
from w2w_registry.diffusion.families.unet import Unet

FAMILIES: dict[str, type[Flux] | type[StableDiffusion3]] = {
    "FluxPipeline": Flux,
    "StableDiffusion3Pipeline": StableDiffusion3,
}
"""Pipelines by the class that ``model_index.json`` names; whatever has a UNet besides."""


def known(index: dict[str, Any]) -> bool:
    """Whether a pipeline with this ``model_index.json`` can be run here."""
    return "unet" in index or index.get("_class_name") in FAMILIES


def family_of(pipe: Any) -> Family:
    """The family of an opened pipeline."""
    made = FAMILIES.get(type(pipe).__name__, Unet)
    return made(pipe)


__all__ = ["FAMILIES", "Conditioning", "Family", "family_of", "known"]
