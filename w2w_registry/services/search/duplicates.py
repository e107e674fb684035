"""Who is registered twice: versions that are the same model, in whatever space, format, rank and precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from w2w_registry.catalog.likeness import every_sketch
from w2w_registry.catalog.lookup import refs_of, same_digests, versions_by_id
from w2w_registry.lora import same_model
from w2w_registry.records import Result
from w2w_registry.services.recording.equivalents import stored_likeness
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.space.near_pairs import near_pairs
from w2w_registry.space.sketch import KIND, unpacked

_HOW = {"equal": "same numbers", "rounding": "but for rounding", "factors": "other factors"}


@dataclass(frozen=True, eq=False)
class Duplicates(Result):
    """Versions that are one model (``name@number``, the oldest first), the distance of their sketches, and how the
    least alike are known to be the same."""

    versions: tuple[str, ...]
    distance: float
    how: str


def duplicates(registry: Registry, progress: Progress = no_progress) -> tuple[list[Duplicates], int]:
    """Clusters of versions in the registry that are the same model, the surest first, and how many were compared.

    Sketches name the candidates; ΔW itself decides. Adapters whose ΔW is not known are the same when their digests are.
    """
    with registry.catalog.read() as session:
        rows = every_sketch(session, KIND)
        ids = [row.version_id for row in rows]
        found = _Clusters()
        for same in same_digests(session):
            for other in same[1:]:
                found.join(same[0], other, 0.0, "same numbers")
        if rows:
            pairs = near_pairs(unpacked([row.data for row in rows]), [row.norm for row in rows])
            factors: dict[int, Any] = {}
            versions = versions_by_id(session, {ids[i] for pair in pairs for i in pair[:2]})
            for done, (i, j, gap) in enumerate(pairs, start=1):
                one, other = ids[i], ids[j]
                if found.root(one) != found.root(other):
                    for version in (one, other):
                        if version not in factors:
                            factors[version] = stored_likeness(registry, session, versions[version]).factors
                    if factors[one] is not None and factors[other] is not None:
                        answer = same_model(factors[one], factors[other])
                        if answer.same:
                            found.join(one, other, gap, _HOW.get(answer.how or "", "same ΔW"))
                progress(done, len(pairs))
        clusters = found.clusters()
        refs = refs_of(session, [v for members, _, _ in clusters for v in members])
    told = [Duplicates(tuple(str(refs[v]) for v in members), round(gap, 6), how) for members, gap, how in clusters]
    return told, len(set(ids))


class _Clusters:
    """Union–find that remembers each cluster's largest gap, and how that one is known."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._worst: dict[int, tuple[float, str]] = {}

    def root(self, x: int) -> int:
        while self._parent.get(x, x) != x:
            self._parent[x] = x = self._parent.get(self._parent[x], self._parent[x])
        return x

    def join(self, one: int, other: int, gap: float, how: str) -> None:
        a, b = sorted((self.root(one), self.root(other)))
        if a == b:
            return
        worst = max((self._worst.get(a, (0.0, "")), self._worst.get(b, (0.0, "")), (gap, how)))
        self._parent[b] = a
        self._parent.setdefault(a, a)
        self._worst[a] = worst

    def clusters(self) -> list[tuple[list[int], float, str]]:
        members: dict[int, list[int]] = {}
        for x in sorted(self._parent):
            members.setdefault(self.root(x), []).append(x)
        told = [(sorted(them), *self._worst[r]) for r, them in members.items() if len(them) > 1]
        return sorted(told, key=lambda one: (one[1], one[0]))
