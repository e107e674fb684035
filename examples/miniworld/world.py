"""What exists in the mini world: the attributes of a face, the nuisances of a photo, identities and captions.

Attributes are what an identity *is* and stay fixed over its photos; nuisances are what a photo adds.  Everything is a
float32 array: attributes (N, ``len(ATTRIBUTES)``) with continuous values in [0, 1] and yes/no values in {0, 1},
nuisances (N, ``len(NUISANCES)``) in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Continuous:
    """An attribute with values in [0, 1]; ``words`` names equal parts of the range, "" where nothing is said."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Binary:
    """A yes/no attribute, present with probability ``rate`` and then named by ``word``."""

    name: str
    word: str
    rate: float


CONTINUOUS: Final = (
    Continuous("skin", ("dark skin", "", "pale skin")),
    Continuous("hair_hue", ("orange hair", "pink hair", "purple hair", "blue hair")),
    Continuous("hair_light", ("dark hair", "", "bright hair")),
    Continuous("hair_length", ("short hair", "", "long hair")),
    Continuous("face_width", ("narrow face", "", "wide face")),
    Continuous("face_length", ("short face", "", "tall face")),
    Continuous("eye_gap", ("near eyes", "", "far eyes")),
    Continuous("eye_size", ("small eyes", "", "big eyes")),
    Continuous("brow_thickness", ("thin brows", "", "thick brows")),
    Continuous("brow_tilt", ("sad brows", "", "angry brows")),
    Continuous("nose_size", ("small nose", "", "big nose")),
    Continuous("mouth_width", ("narrow mouth", "", "wide mouth")),
    Continuous("mouth_curve", ("frown", "", "smile")),
)
BINARY: Final = (
    Binary("beard", "beard", 0.4),
    Binary("glasses", "glasses", 0.4),
    Binary("hat", "hat", 0.4),
    Binary("earrings", "earrings", 0.4),
)
ATTRIBUTES: Final[tuple[str, ...]] = tuple(a.name for a in CONTINUOUS) + tuple(b.name for b in BINARY)
NUISANCES: Final[tuple[str, ...]] = (
    "shift_x",
    "shift_y",
    "turn",
    "roll",
    "scale",
    "light",
    "light_side",
    "background_hue",
    "background_light",
)
MAX_PHRASES: Final = 6


def latin_hypercube(count: int, dims: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, dims) points in [0, 1): every dimension visits each of ``count`` equal strata exactly once."""
    strata = np.argsort(rng.random((count, dims)), axis=0)
    return (strata + rng.random((count, dims))) / count


def sample_attributes(count: int, seed: int) -> Array:
    """(count, attributes): stratified over every attribute, so that a set of identities covers the whole world."""
    rng = np.random.default_rng([seed, 1])
    unit = latin_hypercube(count, len(ATTRIBUTES), rng)
    rates = np.array([b.rate for b in BINARY])
    unit[:, len(CONTINUOUS) :] = unit[:, len(CONTINUOUS) :] < rates
    return unit.astype(np.float32)


def sample_nuisances(count: int, seed: int | tuple[int, ...]) -> Array:
    """(count, nuisances) in [-1, 1): one stratified photo session, so that few photos already show the average."""
    key = (seed,) if isinstance(seed, int) else seed
    rng = np.random.default_rng([*key, 2])
    return (2.0 * latin_hypercube(count, len(NUISANCES), rng) - 1.0).astype(np.float32)


def phrases(attributes: Array) -> list[str]:
    """Every phrase that is true of one face; ``attributes`` is (attributes,)."""
    found = []
    for value, continuous in zip(attributes, CONTINUOUS, strict=False):
        part = min(int(value * len(continuous.words)), len(continuous.words) - 1)
        if continuous.words[part]:
            found.append(continuous.words[part])
    yes = attributes[len(CONTINUOUS) :] > 0.5
    return found + [b.word for b, present in zip(BINARY, yes, strict=True) if present]


def caption(attributes: Array, rng: np.random.Generator) -> str:
    """A true caption that leaves out a random part of what could be said.

    Half of the captions contain the neutral token "sks", so that the prompts of DreamBooth training are ordinary text
    to the base model while the token itself means nobody.
    """
    said = phrases(attributes)
    rng.shuffle(said)
    keep = min(int(rng.integers(0, MAX_PHRASES + 1)), len(said))
    head = "photo of sks person" if rng.random() < 0.5 else "photo of person"
    if not keep:
        return head
    joint = ", " if rng.random() < 0.5 else " "
    return f"{head} with {joint.join(said[:keep])}"


def vocabulary() -> tuple[str, ...]:
    """Every word the captions use, sorted."""
    words = {"photo", "of", "sks", "person", "with", "a", "the", "and", "no"}
    for continuous in CONTINUOUS:
        words.update(word for phrase in continuous.words for word in phrase.split())
    words.update(b.word for b in BINARY)
    return tuple(sorted(words))
