"""Which adapters of one command are the same model: by file, by numbers, or by ΔW under any factors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from w2w_registry.errors import RegistryError
from w2w_registry.lora import Adapter, read_adapter, same_adapter
from w2w_registry.space.sketch import KEYS, NEAR, Sketch, distance


class Twins:
    """Adapters as they are seen, each with the number of the model it is; the first of a model gives the number."""

    def __init__(self) -> None:
        self._by_key: dict[str, int] = {}
        self._firsts: list[tuple[Path, Sketch, int]] = []
        self._numbers = np.zeros((64, 1 + KEYS))
        self._next = 0

    def number(self, adapter: Adapter, digests: Sequence[str], sketch: Sketch | None) -> int:
        """The model this is: a new one, or that of one before."""
        keys = (adapter.sha256, *digests)
        known = next((self._by_key[key] for key in keys if key in self._by_key), None)
        if known is None and sketch is not None and sketch.norm > 0:
            known = self._like(adapter, sketch)
        found = self._next if known is None else known
        if known is None:
            self._next += 1
        if sketch is not None and sketch.norm > 0:
            self._keep(adapter.path, sketch, found)
        for key in keys:
            self._by_key.setdefault(key, found)
        return found

    def _like(self, adapter: Adapter, sketch: Sketch) -> int | None:
        numbers, mine = self._numbers[: len(self._firsts)], np.array((sketch.norm, *sketch.keys()))
        near = np.abs(numbers[:, 0] - mine[0]) <= NEAR * np.maximum(numbers[:, 0], mine[0])
        near &= (np.abs(numbers[:, 1:] - mine[1:]) <= NEAR).all(axis=1)
        for i in np.flatnonzero(near):
            path, theirs, number = self._firsts[i]
            if distance(sketch, theirs) > NEAR:
                continue
            try:
                if same_adapter(read_adapter(path), adapter):
                    return number
            except RegistryError:  # it is gone, or another by now
                continue
        return None

    def _keep(self, path: Path, sketch: Sketch, number: int) -> None:
        place = len(self._firsts)
        if place == len(self._numbers):
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)])
        self._numbers[place] = (sketch.norm, *sketch.keys())
        self._firsts.append((path, sketch, number))
