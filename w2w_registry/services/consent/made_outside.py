"""Newcomers that were made outside this registry and not trained: somebody's model with noise, or mixed with another's.

Such a model may still draw somebody who refused, though it comes no nearer to them than strangers do, neither by what
it draws nor by its weights; by both together it does. Held is who comes so near by both, where both can be compared,
and sooner who has weights that no training leaves (``space.ordinary``); nobody is refused for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.fingerprints import of_versions
from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.membership import is_member
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.vectors import coordinates_of, unpack
from w2w_registry.consent.references import ESTIMATED, Encounter, bits_of, cosines
from w2w_registry.consent.second_look import By
from w2w_registry.lora import Factors
from w2w_registry.records import OperationKind, VersionState
from w2w_registry.services.consent.behaviour import BY, MADE, Place, Population
from w2w_registry.services.consent.places import Places
from w2w_registry.services.consent.refusing import Refusing
from w2w_registry.services.consent.second_look import Near
from w2w_registry.services.recording.equivalents import stored_likenesses
from w2w_registry.services.recording.likeness import Print
from w2w_registry.services.recording.versions import Activity, NewVersion
from w2w_registry.services.registry import Registry
from w2w_registry.space.refusal import HOLD, HOLD_MADE, Nearer, standing_out
from w2w_registry.space.verdict import LEAST_GALLERY

_RECORDED: Final = frozenset(set(OperationKind) - {OperationKind.IMPORT, OperationKind.PULL})
_NEVER: Final = 2.0
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is asked of one model: its ΔW, the space it was meant for, what it draws. ``version``: −1 of a newcomer."""

    factors: Factors
    model_digest: str
    space_id: int | None
    prints: Sequence[Print]
    version: int = -1


class MadeOutside:
    """Models that may be a disturbed one of somebody who refused, as it stands at one instant of one session."""

    def __init__(self, registry: Registry, session: Session, places: Places, who: Refusing) -> None:
        self._registry, self._session, self._places, self._who = registry, session, places, who

    def newcomers(
        self,
        news: Sequence[NewVersion],
        activities: Sequence[Activity | None],
        near: Sequence[Sequence[Near]],
        unsure: Collection[int],
    ) -> dict[int, Encounter]:
        """Whom those of the newcomers may be who are ``unsure`` (their numbers): number -> encounter.

        Not asked of what an operation of this registry made, what a release says its registry made (it has no
        residual), nor of the model of a version that is in service here.
        """
        asked: dict[int, _Asked] = {}
        for i in unsure:
            new, activity = news[i], activities[i]
            kind = OperationKind.IMPORT if activity is None else activity.kind
            factors = new.likeness.factors
            if factors is not None and new.likeness.prints and not _explained(kind, new) and not self._here(near[i]):
                asked[i] = _Asked(factors, new.model_digest, new.space_id, new.likeness.prints)
        return self._met(asked)

    def versions(self, version_ids: Collection[int]) -> dict[int, Encounter]:
        """The same of registered versions: version id -> encounter."""
        rows = versions_by_id(self._session, version_ids)
        open_ones = [row for row in rows.values() if not _explained(row.operation.kind, row)]
        likenesses = stored_likenesses(self._registry, self._session, open_ones)
        prints: dict[int, list[Print]] = {}
        for one in of_versions(self._session, [row.id for row in open_ones]):
            prints.setdefault(one.version_id, []).append(Print(one.base, one.question, unpack(one.data)))
        asked: dict[int, _Asked] = {}
        for row in open_ones:
            factors = likenesses[row.id].factors
            if factors is not None and row.id in prints:
                asked[row.id] = _Asked(factors, row.model_digest, row.space_id, prints[row.id], row.id)
        return self._met(asked)

    def _met(self, asked: Mapping[int, _Asked]) -> dict[int, Encounter]:
        unusual = {i for i, one in asked.items() if self._unusual(one)}
        at = {i: self._compared(one) for i, one in asked.items()}
        groups: dict[tuple[Place, int | None], list[tuple[int, Print]]] = {}
        for i, one in asked.items():
            for shown in one.prints if i in unusual or at[i] is not None else ():
                where = at[i]
                space = None if where is None else where[0]
                groups.setdefault(((shown.base, shown.question), space), []).append((i, shown))
        found: dict[int, Encounter] = {}
        for (place, space), members in groups.items():
            who = [i for i, _ in members]
            points = [where[1] for where in (at[i] for i in who) if where is not None]
            ids = np.array([asked[i].version for i in who], np.int64)
            weights = None if space is None else _Weights(self._session, self._places, self._who, space, points, ids)
            queries = np.stack([shown.values for _, shown in members])
            for i, met in zip(
                who, self._nearest(place, queries, ids, weights, [i in unusual for i in who]), strict=True
            ):
                if met is not None and met.doubtful and (i not in found or met.similarity > found[i].similarity):
                    found[i] = met
        return found

    def _nearest(
        self,
        place: Place,
        queries: NDArray[np.float32],
        ids: NDArray[np.int64],
        weights: _Weights | None,
        unusual: Sequence[bool],
    ) -> list[Encounter | None]:
        """Whom each of the queries (q, D) may be."""
        subjects, chances, nearer = self._who.behaviour.disturbed(place, queries, ids, weights)
        if not subjects:
            return [None] * len(queries)
        odd = np.array(unusual)[:, None]
        both = np.zeros(chances.shape, bool) if nearer is None else np.isfinite(nearer.refused)
        chances = np.where(odd | both, chances, 1.0)
        return [
            Encounter(subjects[j], float(1 - row[j]), _NEVER, MADE if made else BY, 1 - (HOLD_MADE if made else HOLD))
            for row, j, made in zip(chances, chances.argmin(axis=1), unusual, strict=True)
        ]

    def _unusual(self, one: _Asked) -> bool:
        """Whether its weights are no training's by a space that it was not fitted into."""
        spaces = self._who.spaces | ({one.space_id} if one.space_id is not None else set())
        return any(self._places.unusual(one.factors, i) for i in sorted(spaces) if not self._fitted(one, i))

    def _compared(self, one: _Asked) -> tuple[int, NDArray[np.float32]] | None:
        """The largest space in which somebody refuses and it has a place, and where: the newcomer does not choose."""
        for space_id in self._places.largest_first(self._who.spaces):
            point = None if self._fitted(one, space_id) else self._places.coordinates(one.factors, space_id)
            if point is not None:
                return space_id, point
        return None

    def _fitted(self, one: _Asked, space_id: int) -> bool:
        return is_member(self._session, space_id, one.model_digest)

    def _here(self, near: Sequence[Near]) -> bool:
        same = [one.version_id for one in near if one.by is By.MODEL]
        return any(row.state is VersionState.ACTIVE for row in versions_by_id(self._session, same).values())


class _Weights:
    """How near points (q, k) of one space come to who refused, held against how near they come to the registered."""

    def __init__(
        self,
        session: Session,
        places: Places,
        who: Refusing,
        space_id: int,
        points: Sequence[NDArray[np.float32]],
        ids: NDArray[np.int64],
    ) -> None:
        self._session, self._places, self._who, self._space = session, places, who, space_id
        self._units, self._ids = places.unit(space_id, np.stack(points)), ids

    def __call__(self, subjects: Sequence[str], crowd: Population) -> Nearer | None:
        """By subject (q, r), and in the crowd (n, n); None with too few registered in the space."""
        points = coordinates_of(self._session, self._space, crowd.versions.tolist())
        there = np.array([version in points for version in crowd.versions.tolist()], bool)
        registered = np.array([not who for who in crowd.refusing], bool)[there]
        if registered.sum() < LEAST_GALLERY:
            return None
        known = crowd.versions[there]
        units = self._places.unit(self._space, np.stack([points[version] for version in known.tolist()]))
        among = np.full((len(there), len(there)), np.nan)
        among[np.ix_(there, there)] = _out(units @ units.T, units, known, units, known, registered)
        near, error = self._with(subjects)
        return Nearer(_out(near, self._units, self._ids, units, known, registered, error), among)

    def _with(self, subjects: Sequence[str]) -> tuple[Array, Array]:
        """Cosines (q, r) with each subject, the greatest of their models; NaN with whom none is known in the space.
        And the error (q, r) they were estimated with."""
        near = np.full((len(self._units), len(subjects)), np.nan)
        error = np.zeros(near.shape)
        columns: dict[str, list[tuple[Array, float]]] = {}
        for subject, unit, _ in self._who.standing.get(self._space, ()):
            columns.setdefault(subject, []).append((np.asarray(self._units @ unit, np.float64), 0.0))
        kept = self._who.references.get(self._space, ())
        if kept and self._who.key is not None:
            bits = bits_of(self._units, self._who.key, self._places.context(self._space))
            for one, column in zip(kept, cosines(bits, np.stack([r.bits for r in kept])).T, strict=True):
                columns.setdefault(one.subject, []).append((column, ESTIMATED))
        for j, subject in enumerate(subjects):
            for column, wrong in columns.get(subject, ()):
                nearer = ~(near[:, j] >= column)
                near[nearer, j], error[nearer, j] = column[nearer], wrong
        return near, error


def _out(
    cosine: NDArray[np.floating],
    units: NDArray[np.float32],
    own: NDArray[np.int64],
    others: NDArray[np.float32],
    known: NDArray[np.int64],
    registered: NDArray[np.bool_],
    error: Array | float = 0.0,
) -> Array:
    """``standing_out`` of cosines (q, r), for ``units`` (q, k) of versions ``own`` (q,), among the ``registered``."""
    strangers = np.asarray(units @ others[registered].T, np.float64)
    return standing_out(cosine, np.where(own[:, None] == known[registered], np.nan, strangers), error)


def _explained(kind: str, version: NewVersion | Version) -> bool:
    released = kind == OperationKind.PULL and version.space_id is not None and version.residual is None
    return kind in _RECORDED or released
