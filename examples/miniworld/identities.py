"""Who lives in the mini world: ids, true attributes, splits and photo sets; all of it follows from one seed."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.render import render
from examples.miniworld.world import Array, sample_attributes, sample_nuisances

FIT: Final = 1000
HELDOUT: Final = 56
RETRAINED: Final = 224
PHOTOS: Final = 12
SEED: Final = 2024


def identity_id(index: int) -> str:
    """``p0007``."""
    return f"p{index:04d}"


def split_of(index: int) -> str:
    """ "fit" for the identities a space may be fitted on, "heldout" for those it must never see."""
    return "fit" if index < FIT else "heldout"


def attributes() -> Array:
    """(FIT + HELDOUT, attributes); either part is stratified by itself."""
    return np.concatenate([sample_attributes(FIT, SEED), sample_attributes(HELDOUT, SEED + 1)])


def photo_set(index: int, truth: Array, take: int = 0) -> NDArray[np.uint8]:
    """(PHOTOS, 32, 32, 3) photos of one identity with attributes ``truth`` (attributes,).

    ``take`` 0 are the photos its LoRA learned from, 1 those of the retrained one; higher numbers are further sessions.
    """
    nuisances = sample_nuisances(PHOTOS, (SEED, index, take))
    return render(np.repeat(truth[None], PHOTOS, axis=0), nuisances)
