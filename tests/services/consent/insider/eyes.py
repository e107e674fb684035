"""Who is drawn: the campaign's only judge. It looks at pictures, never at a registry's records."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.readers import load_readers, unit
from examples.miniworld.unpack import DATA, Loras
from w2w_registry.diffusion.adapters import Adapter, read_adapter
from w2w_registry.diffusion.generate import Recipe, Shot, draw
from w2w_registry.records import digest_of
from w2w_registry.services.recording import newcomers

SEEDS, STEPS = (1, 2, 3, 4), 10
PROMPT = "photo of sks person"
PIPELINE = str(DATA / "pipeline")
SAME = 0.9
"""Second trainings of 24 people read .93 or more beside the first, with the same seeds; 60 strangers at most .86."""
FAR = 0.6
"""Whose first picture reads this far from everybody who refused is not drawn again (the same people's second trainings:
.80 or more by the first picture alone)."""

Readings = NDArray[np.float32]


@dataclass(eq=False)
class Eyes:
    """``known`` (people, seeds, attributes): what the first ``rows`` people's own LoRAs draw, read off pictures.

    ``seen``: what every model shown so far draws, by its digest; kept in ``cache`` when that is a file.
    """

    loras: Loras
    rows: tuple[int, ...]
    known: Readings
    cache: Path | None = None
    seen: dict[str, Readings] = field(default_factory=dict)

    @classmethod
    def opened(cls, loras: Loras, rows: Sequence[int], cache: Path | None = None) -> Eyes:
        seen: dict[str, Readings] = {}
        if cache is not None and cache.exists():
            with np.load(cache) as file:
                seen = {key: file[key] for key in file.files}
        eyes = cls(loras, tuple(rows), np.zeros((0, len(SEEDS), 0), np.float32), cache, seen)
        people = [Adapter(loras.layout, loras.theta[row]) for row in rows]
        new = {key_of(one): one for one in people if key_of(one) not in seen}
        seen |= zip(new, _drawn(list(new.values()), SEEDS), strict=True)
        eyes.known = np.stack([seen[key_of(one)] for one in people])
        return eyes

    def keep(self) -> None:
        if self.cache is not None:
            if self.cache.exists():  # another process may have kept more since
                with np.load(self.cache) as file:
                    self.seen = {key: file[key] for key in file.files} | self.seen
            part = self.cache.with_suffix(f".{os.getpid()}.npz")
            np.savez(part, **self.seen)
            part.replace(self.cache)

    def shows(self, adapters: Sequence[Adapter], refusing: Sequence[Collection[int]]) -> list[int | None]:
        """Whom of ``refusing`` (rows) each model draws: nearer than everybody else known, and as near as ``SAME``.

        One picture of each is drawn first, of many together, and the others of those alone that come near anybody.
        """
        new = {key_of(one): one for one in adapters if key_of(one) not in self.seen}
        first = dict(zip(new, _drawn(list(new.values()), SEEDS[:1]), strict=True))
        near = {
            key: one
            for key, one in new.items()
            if max(self._scores(first[key], SEEDS[:1])[self.rows.index(row)] for row in set().union(*refusing)) >= FAR
        }
        self.seen |= zip(near, _drawn(list(near.values()), SEEDS), strict=True)
        return [
            self._whom(self._scores(self.seen[key_of(one)], SEEDS), who) if key_of(one) in self.seen else None
            for one, who in zip(adapters, refusing, strict=True)
        ]

    def shows_file(self, path: Path, refusing: Collection[int]) -> int | None:
        (found,) = self.shows([read_adapter(path)], [refusing])
        return found

    def shows_pictures(self, pixels: NDArray[np.uint8], seeds: Sequence[int], refusing: Collection[int]) -> int | None:
        """As ``shows``, of pictures (n, 32, 32, 3) drawn from ``seeds``."""
        return self._whom(self._scores(load_readers(DATA / "readers.safetensors").read(pixels), seeds), refusing)

    def _scores(self, readings: Readings, seeds: Sequence[int]) -> Readings:
        """How like everybody known (people,), by pictures of the same seeds."""
        places = [SEEDS.index(seed) for seed in seeds]
        scores: Readings = unit(readings.mean(0)[None])[0] @ unit(self.known[:, places].mean(1)).T
        return scores

    def _whom(self, scores: Readings, refusing: Collection[int]) -> int | None:
        best = int(scores.argmax())
        return self.rows[best] if self.rows[best] in refusing and scores[best] >= SAME else None


def key_of(adapter: Adapter) -> str:
    """What an adapter is, to draw it once only."""
    if adapter.layout is None or adapter.theta is None or adapter.magnitudes is not None or adapter.text is not None:
        raise ValueError("the campaign's models are plain LoRAs")
    return digest_of([adapter.layout.digest, np.asarray(adapter.theta, np.float32).tobytes().hex()])


def _drawn(adapters: Sequence[Adapter], seeds: Sequence[int]) -> list[Readings]:
    """(seeds, attributes) of each; those of one layout are drawn together."""
    model, readers = newcomers.opened(PIPELINE).model, load_readers(DATA / "readers.safetensors")
    found: dict[int, Readings] = {}
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(adapters):
        assert one.layout is not None
        groups.setdefault(one.layout.digest, []).append(i)
    for places in groups.values():
        layout = adapters[places[0]].layout
        assert layout is not None
        shots = [Shot(adapters[i].theta, seed) for i in places for seed in seeds]
        pictures = np.stack(list(draw(model, layout, shots, Recipe(PROMPT, steps=STEPS), batch=32)))
        read = readers.read(pictures).reshape(len(places), len(seeds), -1)
        found |= zip(places, read, strict=True)
    return [found[i] for i in range(len(adapters))]
