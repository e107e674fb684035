"""What every suite needs: the base model, the readers, the truth, the LoRAs and the space fitted on the fit split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from examples.miniworld import identities as people
from examples.miniworld import unpack as store
from examples.miniworld.pipeline import PROMPT
from examples.miniworld.readers import Readers, load_readers, unit
from w2w_registry.diffusion.generate import Recipe, Shot, draw
from w2w_registry.diffusion.initializer import Initializer, features, fit_initializer
from w2w_registry.diffusion.invert import SpaceBasis
from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel, fast_bf16, load_model
from w2w_registry.records import digest_of
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.fit import fit_space
from w2w_registry.space.layout import Layout
from w2w_registry.space.metrics import reliability_weighted, repeat_reliability

Array = NDArray[np.float32]
Pictures = NDArray[np.uint8]

RECIPE: Final = Recipe(PROMPT, steps=20, guidance=2.0)
UNSEEN: Final = 2
"""The photo session inversions see: of other nuisances than the one the LoRAs learned from."""
JUDGED: Final = 3
"""The session drawn pictures are compared with."""


@dataclass(frozen=True)
class Scope:
    """How much to measure; ``small`` is for a look in a minute or two."""

    heldout: int = people.HELDOUT
    registered: int = people.RETRAINED
    seeds: int = 8
    samples: int = 100

    @classmethod
    def small(cls) -> Scope:
        return cls(heldout=8, registered=24, seeds=2, samples=12)


@dataclass
class Assets:
    """The shipped mini world, opened once. ``theta0`` (D,): where all LoRAs began; ``theta`` (N, D) by identity;
    ``again`` (R, D) the retrained ones."""

    model: DiffusionModel
    readers: Readers
    layout: Layout
    theta0: Array
    theta: Array
    again: Array
    cache: Path
    truth: Array = field(default_factory=people.attributes)

    @classmethod
    def load(cls, data: Path, cache: Path) -> Assets:
        store.verify(data)
        loras = store.load_loras(data)
        model = load_model(data / "pipeline", device="cpu", dtype="float32")
        readers = load_readers(data / "readers.safetensors")
        return cls(model, readers, loras.layout, loras.theta0, loras.theta, loras.retrained, cache)

    @property
    def bf16(self) -> bool:
        return fast_bf16(self.model.device)

    @cached_property
    def words(self) -> Conditioning:
        return self.model.encode_text(PROMPT)

    @cached_property
    def space(self) -> WeightSpace:
        """Fitted on the fit split, its metric learned from the retrained LoRAs, as ``space fit --repeats`` does."""
        space = fit_space(self.theta[: people.FIT], self.layout, base_model=store.BASE_MODEL)
        count = len(self.again)
        reliability = repeat_reliability(space.project(self.theta[:count]), space.project(self.again))
        metric = reliability_weighted(space.component_std, reliability)
        return replace(space, repeat_reliability=reliability, metric=metric)

    @cached_property
    def coordinates(self) -> Array:
        """(N, k) of every identity's first LoRA, the held-out ones included."""
        return self.space.project(self.theta)

    def basis(self, components: int) -> SpaceBasis:
        s = self.space
        return SpaceBasis.of(
            s.layout, s.mean, s.std, s.components, s.component_std, device=self.model.device, count=components
        )

    # -- pictures ------------------------------------------------------------------------------------
    def photos(self, index: int, session: int) -> Pictures:
        """(PHOTOS, 32, 32, 3) of one identity."""
        return people.photo_set(index, self.truth[index], session)

    def draw(self, shots: Sequence[Shot], recipe: Recipe = RECIPE) -> Pictures:
        """(len(shots), 32, 32, 3)."""
        return np.stack(draw(self.model, self.layout, shots, recipe, batch=64, bf16=self.bf16))

    def readings(
        self, thetas: Array, seeds: Sequence[int], name: str, recipe: Recipe = RECIPE, edited: Array | None = None
    ) -> Array:
        """Readings (n, seeds, attributes) of pictures of θ (n, D), each injected with ``edited`` (n, D) if given; kept
        in the cache under ``name``."""
        after: Sequence[Array | None] = [None] * len(thetas) if edited is None else list(edited)

        def compute() -> Array:
            shots = [Shot(theta, seed, other) for theta, other in zip(thetas, after, strict=True) for seed in seeds]
            return self.readers.read(self.draw(shots, recipe)).reshape(len(thetas), len(seeds), -1)

        key = [array_key(thetas), None if edited is None else array_key(edited), list(seeds), recipe.to_json()]
        return self.keep(name, key, compute)

    def real(self, indices: Sequence[int], session: int = JUDGED) -> Array:
        """Readings (n, PHOTOS, attributes) of real photos."""
        stack = np.concatenate([self.photos(i, session) for i in indices])
        return self.readers.read(stack).reshape(len(indices), people.PHOTOS, -1)

    # -- the guess -----------------------------------------------------------------------------------
    def features(self, pixels: Pictures) -> Array:
        latents = self.model.encode_images(pixels, batch=64)
        with self.model.autocast(self.bf16):
            return features(self.model, latents, self.words, batch=64)

    @cached_property
    def guess(self) -> Initializer:
        """Fitted on the fit split's own training photos, as ``initializer fit --photos`` does."""

        def compute() -> dict[str, Array]:
            shown = [self.photos(i, 0) for i in range(people.FIT)]
            rows = [self.features(np.concatenate(shown[i : i + 40])) for i in range(0, people.FIT, 40)]
            who = np.repeat(np.arange(people.FIT), people.PHOTOS)
            white = (self.coordinates[: people.FIT] / self.space.component_std)[who]
            return fit_initializer(np.concatenate(rows), white, who).to_tensors()

        path = self.cache / f"guess-{people.PHOTOS}-{self.space.digest[:16]}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **compute())  # type: ignore[arg-type]
        with np.load(path) as stored:
            return Initializer.from_tensors(dict(stored))

    # -- the cache -----------------------------------------------------------------------------------
    def keep(self, name: str, key: Any, compute: Callable[[], Array]) -> Array:
        """``compute()``, or what it gave before for the same key: a killed run goes on where it was."""
        path = self.cache / f"{name}-{digest_of(key)[:16]}.npy"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            found = np.asarray(compute(), np.float32)
            temporary = path.with_suffix(".part.npy")
            np.save(temporary, found)
            temporary.replace(path)
        return np.asarray(np.load(path), np.float32)


def array_key(array: NDArray[Any]) -> str:
    """A digest of an array's content."""
    return digest_of([list(array.shape), np.ascontiguousarray(array).tobytes()])


def identity_scores(drawn: Array, real: Array) -> NDArray[np.float64]:
    """Identity score (n,): mean over all pairs of drawn (n, s, a) and real (n, p, a) readings of each identity."""
    a = np.stack([unit(d) for d in drawn]).astype(np.float64)
    b = np.stack([unit(r) for r in real]).astype(np.float64)
    return np.asarray(np.einsum("nsa,npa->n", a, b) / (a.shape[1] * b.shape[1]))


def consistencies(drawn: Array) -> NDArray[np.float64]:
    """Mean score (n,) among pictures (n, s, a) of one identity with different seeds."""
    a = np.stack([unit(d) for d in drawn]).astype(np.float64)
    s = a.shape[1]
    among = np.einsum("nsa,nta->nst", a, a)
    return np.asarray((among.sum((1, 2)) - s) / (s * (s - 1)))


def one_thread() -> None:
    """The networks here are so small that threads cost more than they give."""
    torch.set_num_threads(1)
