"""Which adapters of one command are the same model: by file, by numbers, or by ΔW under any factors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from w2w_registry.errors import RegistryError
from w2w_registry.lora import Adapter, read_adapter, same_adapter
from w2w_registry.space.sketch import NEAR, Sketch, cells, distance, near_cells


class Twins:
    """Adapters as they are seen, each with the number of the model it is; the first of a model gives the number."""

    def __init__(self) -> None:
        self._by_key: dict[str, int] = {}
        self._seen: dict[int, list[tuple[Path, Sketch, int]]] = {}  # by cell
        self._next = 0

    def number(self, adapter: Adapter, digests: Sequence[str], sketch: Sketch | None) -> int:
        """The model this is: a new one, or that of one before."""
        keys = (adapter.sha256, *digests)
        known = next((self._by_key[key] for key in keys if key in self._by_key), None)
        if known is None and sketch is not None:
            known = self._like(adapter, sketch)
        found = self._next if known is None else known
        if known is None:
            self._next += 1
        if sketch is not None:
            self._keep(adapter.path, sketch, found)
        for key in keys:
            self._by_key.setdefault(key, found)
        return found

    def _like(self, adapter: Adapter, sketch: Sketch) -> int | None:
        (near,) = near_cells([sketch])
        for path, theirs, number in (one for cell in near for one in self._seen.get(cell, ())):
            if distance(sketch, theirs) > NEAR:
                continue
            try:
                if same_adapter(read_adapter(path), adapter):
                    return number
            except RegistryError:  # it is gone, or another by now
                continue
        return None

    def _keep(self, path: Path, sketch: Sketch, number: int) -> None:
        self._seen.setdefault(cells([sketch])[0], []).append((path, sketch, number))
