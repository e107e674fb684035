"""The second look: whom a newcomer resembles, held against what it says of itself (``consent.second_look``).

    looked = SecondLook(registry, uow.session)
    near = looked.near([likeness, …], [{space: coordinates}, …])
    held = looked.judge(new, activity, near[i])

The door asks it of every version that is recorded (``Door.admit``), inside the transaction, so no service can forget
to. Compared are ΔW itself, what is drawn where both have a fingerprint, and coordinates in every calibrated space,
with versions in any state but erased. One that was found distinct stays with what was decided.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import depictions, vectors
from w2w_registry.catalog.fingerprints import questions
from w2w_registry.catalog.holds import found_distinct
from w2w_registry.catalog.identities import named
from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.space_rows import all_spaces
from w2w_registry.consent.references import Encounter
from w2w_registry.consent.rules import Rules
from w2w_registry.consent.second_look import By, Claim, Contradiction, Depicted, Likely, second_look, seen_as
from w2w_registry.errors import RegistryError, UsageError
from w2w_registry.lora import same_model
from w2w_registry.records import Kind, OperationKind, Rank, Told, VersionState
from w2w_registry.services.consent.holding import as_held, as_near, in_doubt, known_again, why_held
from w2w_registry.services.recording import policies
from w2w_registry.services.recording.equivalents import near_any, restored, stored_likenesses
from w2w_registry.services.recording.gallery import Gallery, open_gallery
from w2w_registry.services.recording.likeness import Likeness
from w2w_registry.services.recording.nearest import Nearest, open_nearest
from w2w_registry.services.recording.searched import NEIGHBOURS, Searched
from w2w_registry.services.recording.spaces import load_space, metric_of
from w2w_registry.services.recording.versions import Activity, Held, NewVersion
from w2w_registry.services.registry import Registry
from w2w_registry.space.gauge import to_gauge
from w2w_registry.space.metrics import false_alarm_among
from w2w_registry.space.sketch import distance
from w2w_registry.space.verdict import LEAST_GALLERY, LIKELY, SAME

_OUT: Final = (VersionState.BLOCKED, VersionState.REMOVED)
NOT_ERASED: Final = tuple(state for state in VersionState if state is not VersionState.ERASED)
_COMPARED: Final = 128  # models whose ΔW memory holds at once
Points = Mapping[int, NDArray[np.float32]]
Said = tuple[str, Kind, Sequence[str], Activity | None]
"""What something says of itself: its name, kind and subjects, and what made it (None: an import)."""


@dataclass(frozen=True)
class Near:
    """A registered version that a newcomer may be, before anybody asked who that is."""

    version_id: int
    by: By
    score: float
    false_alarm: float


@dataclass(frozen=True, eq=False)
class _Placed:
    """Index of those in service; ids (m,) and unit vectors (m, k) of the blocked and removed, who look as before."""

    nearest: Nearest | None
    out: NDArray[np.int64]
    units: NDArray[np.float32]


class SecondLook:
    """The registered as they are at one instant of one session: opened when first asked, and not again."""

    def __init__(self, registry: Registry, session: Session) -> None:
        self._registry, self._session = registry, session
        self._galleries: dict[tuple[str, str], Gallery | None] = {}
        self._opened: dict[int, _Placed] = {}
        self._calibrated: list[Space] | None = None

    def near(
        self, likenesses: Sequence[Likeness], points: Sequence[Points], searched: Searched | None = None
    ) -> list[list[Near]]:
        """Who comes near enough to each newcomer to be told of, the surest comparison first; near enough to be the
        same, where a stranger would in at most one of a hundred searches.

        Args:
            searched: what was found of every newcomer's point in one space. It counts as long as nothing has been
                recorded since.
        """
        if searched is not None and searched.seq != vectors.last_seq(self._session):
            searched = None
        found = self._same_models(likenesses)
        drawn, compared = self._drawn(likenesses)
        for i, near in enumerate(drawn):
            _extend(found[i], near)
        for space in self.spaces():
            rows = [i for i, one in enumerate(points) if space.id in one or likenesses[i].known is not None]
            placed = [(i, self.point(space, likenesses[i], points[i])) for i in rows]
            there = [(i, point) for i, point in placed if point is not None]
            if there:
                known = searched if searched is not None and searched.space_id == space.id else None
                found_there = self._in(space, [point for _, point in there], known)
                for i, near in zip((i for i, _ in there), found_there, strict=True):
                    # What it draws says more than its weights: who was compared by that and is not even likely, is not.
                    _extend(found[i], [one for one in near if one.version_id not in compared[i]])
        return found

    def judge(
        self, new: NewVersion, activity: Activity | None, near: Sequence[Near] | None = None
    ) -> Contradiction | None:
        """Whom a newcomer resembles though it says otherwise; None when it may come in as it is.

        Args:
            activity: what made it; None = an import. near: what ``near`` found, when it was asked for many.
        """
        if near is None:
            own = {} if new.space_id is None or new.coordinates is None else {new.space_id: new.coordinates}
            (near,) = self.near([new.likeness], [own])
        return self.told(new.name, new.kind, new.subjects, activity, near)

    def told(
        self, name: str, kind: Kind, subjects: Sequence[str], activity: Activity | None, near: Sequence[Near]
    ) -> Contradiction | None:
        """As ``judge``, of something that is no version yet."""
        (found,) = self.told_all([(name, kind, subjects, activity)], [near])
        return found

    def told_all(self, said: Sequence[Said], near: Sequence[Sequence[Near]]) -> list[Contradiction | None]:
        """As ``told``, of many: a few queries, however many there are."""
        return [found for _, _, found in self._judged(said, near, [False] * len(said))]

    def held_all(
        self,
        said: Sequence[Said],
        near: Sequence[Sequence[Near]],
        doubts: Sequence[Encounter | None],
        known: Sequence[Encounter | None],
    ) -> list[Held | None]:
        """Which of many are held, and why: as ``told_all``, and where it is in doubt whether they draw somebody who
        refused, or where they are ``known`` to be somebody who agrees again and whom they do not name. Not those that
        draw somebody else who is registered and is what they say they are."""
        held: list[Held | None] = []
        unsure = [met if met is not None and met.doubtful else None for met in doubts]
        again = [met if met is not None and (met.refused or met.doubtful) else None for met in known]
        either = [one is not None or two is not None for one, two in zip(unsure, again, strict=True)]
        for one, two, (claim, likely, found) in zip(unsure, again, self._judged(said, near, either), strict=True):
            told = as_held(found)
            if told is None and claim is not None and not seen_as(claim, likely):
                if one is not None and one.subject not in claim.depicts:
                    told = in_doubt(one)
                elif two is not None and two.subject not in claim.depicts:
                    told = known_again(two)
            held.append(told)
        return held

    def _judged(
        self, said: Sequence[Said], near: Sequence[Sequence[Near]], also: Sequence[bool]
    ) -> list[tuple[Claim | None, list[Likely], Contradiction | None]]:
        """What each says of itself, whom it is surely near to, and what is at odds; where nobody is near no claim is
        looked up, but of those it is ``also`` asked of."""
        sure = [[one for one in found if one.false_alarm <= SAME] for found in near]
        asked = [i for i, found in enumerate(sure) if found or also[i]]
        answers: list[tuple[Claim | None, list[Likely], Contradiction | None]] = [(None, [], None)] * len(said)
        if asked:
            rules = Rules.from_settings(policies.in_force(self._registry, self._session))
            registered = self._registered({one.version_id for i in asked for one in sure[i]}, rules)
            claims = self._claims([said[i] for i in asked], rules)
            for i, claim in zip(asked, claims, strict=True):
                likely = [registered[one.version_id](one) for one in sure[i]]
                answers[i] = claim, likely, second_look(claim, likely)
        return answers

    def remarks(self, name: str, near: Sequence[Near], held: Held | Contradiction | None) -> tuple[str, ...]:
        """What to tell of a newcomer: why it is held, else whom it looks like under another name."""
        if held is not None:
            told = held if isinstance(held, Held) else as_held(held)
            assert told is not None
            return (Told(why_held(name, told), Rank.LIKENESS),)
        known = named(self._session, [one.version_id for one in near])
        return tuple(
            Told(
                f"looks like {known[one.version_id].name}@{known[one.version_id].number} (by {one.by}"
                f"{as_near(one.by, one.false_alarm)}): the same identity under another name?",
                Rank.LIKENESS,
            )
            for one in near
            if known[one.version_id].name != name
        )

    # -- what is said ---------------------------------------------------------------------------
    def _claims(self, said: Sequence[Said], rules: Rules) -> list[Claim]:
        """What each newcomer says of itself, whom its sources depict included."""
        inputs = [() if activity is None else activity.inputs for *_, activity in said]
        parents = [sorted({one.version_id for one in of if one.version_id is not None}) for of in inputs]
        upstream: dict[int, set[str | None]] = {}
        for one in depictions.likenesses(self._session, sorted(set().union(*parents)), rules.likeness_kinds):
            upstream.setdefault(one.root, set()).add(one.subject)
        claims = []
        for (name, kind, subjects, activity), of in zip(said, parents, strict=True):
            depicts: set[str | None] = {*subjects, *(subject for parent in of for subject in upstream.get(parent, ()))}
            sampled = activity is not None and activity.kind == OperationKind.SAMPLE
            if not depicts and not of and not sampled and kind in rules.likeness_kinds:
                depicts.add(None)
            claims.append(Claim(name, kind, frozenset(depicts)))
        return claims

    def likely(self, near: Sequence[Near], rules: Rules) -> list[Likely]:
        """Who those are that come near, with what they say of themselves."""
        registered = self._registered({one.version_id for one in near}, rules)
        return [registered[one.version_id](one) for one in near]

    def _registered(self, ids: Collection[int], rules: Rules) -> dict[int, Callable[[Near], Likely]]:
        """What registered versions are, by id: makes a ``Likely`` of how near one is."""
        known, rows = named(self._session, sorted(ids)), versions_by_id(self._session, ids)
        depicted: dict[int, set[str | None]] = {i: set() for i in ids}
        for one in depictions.likenesses(self._session, sorted(ids), rules.likeness_kinds):
            depicted[one.root].add(one.subject)
        vouched = found_distinct(self._session, sorted(ids))

        def likely(near: Near) -> Likely:
            i = near.version_id
            who, depicts, state = known[i], Depicted(depicted[i]), rows[i].state
            return Likely(
                i, who.name, who.number, who.kind, depicts, state, near.by, near.score, near.false_alarm, i in vouched
            )

        return dict.fromkeys(ids, likely)

    # -- who is near ----------------------------------------------------------------------------
    def _same_models(self, likenesses: Sequence[Likeness]) -> list[list[Near]]:
        found: list[list[Near]] = [[] for _ in likenesses]
        asked = [(i, one.sketch) for i, one in enumerate(likenesses) if one.sketch is not None and one.sketch.norm > 0]
        rows = near_any(self._session, [sketch for _, sketch in asked], NOT_ERASED)
        pairs = [(i, row) for (i, _), near in zip(asked, rows, strict=True) for row in near]
        for start in range(0, len(pairs), _COMPARED):
            part = pairs[start : start + _COMPARED]
            versions = versions_by_id(self._session, [row.version_id for _, row in part])
            stored = stored_likenesses(self._registry, self._session, list(versions.values()))
            for i, row in part:
                mine, theirs = likenesses[i], stored[row.version_id].factors
                if mine.sketch is None or mine.factors is None or theirs is None:
                    continue
                if same_model(mine.factors, theirs).same:
                    gap = distance(mine.sketch, restored(row))
                    found[i].append(Near(row.version_id, By.MODEL, 1.0 - gap, 0.0))
        return found

    def _drawn(self, likenesses: Sequence[Likeness]) -> tuple[list[list[Near]], list[set[int]]]:
        """Who draws the same, and whom each was compared with by what it draws."""
        near: list[list[Near]] = [[] for _ in likenesses]
        compared: list[set[int]] = [set() for _ in likenesses]
        groups: dict[tuple[str, str], list[int]] = {}
        for i, one in enumerate(likenesses):
            for shown in one.prints:
                groups.setdefault((shown.base, shown.question), []).append(i)
        for asked, rows in groups.items():
            gallery = self.gallery(*asked)
            if gallery is None:
                continue
            values = [next(p.values for p in likenesses[i].prints if (p.base, p.question) == asked) for i in rows]
            versions = gallery.versions
            scores, verdicts = gallery.verdicts(np.stack(values))
            for i, row, verdict in zip(rows, scores, verdicts, strict=True):
                best = [j for j in np.argsort(-row)[:NEIGHBOURS] if verdict.false_alarm[j] <= LIKELY]
                _extend(
                    near[i],
                    [Near(int(versions[j]), By.BEHAVIOUR, float(row[j]), float(verdict.false_alarm[j])) for j in best],
                )
                compared[i].update(versions[verdict.false_alarm > LIKELY].tolist())
        return near, compared

    def gallery(self, base: str, question: str) -> Gallery | None:
        if (base, question) not in self._galleries:
            asked = next((a for a in questions(self._session) if (a.base, a.question) == (base, question)), None)
            there = None
            if asked is not None and asked.versions >= LEAST_GALLERY:
                with suppress(UsageError):  # too few people
                    there = open_gallery(self._registry, self._session, asked, NOT_ERASED)
            self._galleries[base, question] = there
        return self._galleries[base, question]

    def spaces(self) -> list[Space]:
        if self._calibrated is None:
            self._calibrated = [
                space for space in all_spaces(self._session) if space.calibration.get("false_match_rate")
            ]
        return self._calibrated

    def point(self, space: Space, likeness: Likeness, points: Points) -> NDArray[np.float32] | None:
        if space.id in points:
            return points[space.id]
        factors = likeness.factors
        if factors is None:
            return None
        try:
            fitted = load_space(self._registry.artifacts, space)
            gauged = to_gauge(factors.tensors, factors.alphas, fitted.layout, fitted.mean, fitted.std, fitted.start)
        except RegistryError:
            return None
        return fitted.project(gauged.theta)

    def _in(self, space: Space, points: Sequence[NDArray[np.float32]], known: Searched | None) -> list[list[Near]]:
        """Who reaches the space's threshold and is likely to be the same in a gallery of this size."""
        there = self._open(space)
        threshold, rate = (float(space.calibration[key]) for key in ("threshold", "false_match_rate"))
        asked = np.stack(points)
        ids, scores = np.zeros((len(points), 0), np.int64), np.zeros((len(points), 0), np.float32)
        served = 0
        if known is not None and len(known.ids) == len(points):
            ids, scores, served = known.ids, known.scores, known.size
        elif there.nearest is not None:
            ids, scores = there.nearest.search(asked, NEIGHBOURS)
            served = there.nearest.size
        if len(there.out):
            more = metric_of(space).unit(asked) @ there.units.T
            ids = np.concatenate([ids, np.broadcast_to(there.out, more.shape)], axis=1)
            scores = np.concatenate([scores, more], axis=1)
        alarms = false_alarm_among(scores, threshold, rate, served + len(there.out))
        return [
            [
                Near(int(i), By.WEIGHTS, float(score), float(alarm))
                for i, score, alarm in zip(*row, strict=True)
                if i >= 0 and score >= threshold and alarm <= LIKELY
            ]
            for row in zip(ids, scores, alarms, strict=True)
        ]

    def _open(self, space: Space) -> _Placed:
        if space.id not in self._opened:
            any_there = vectors.count(self._session, space.id, most=1)
            nearest = open_nearest(self._registry, self._session, space) if any_there else None
            out = vectors.matrix(self._session, space.id, states=_OUT)
            units = metric_of(space).unit(out.matrix) if len(out.ids) else np.zeros((0, space.components), np.float32)
            self._opened[space.id] = _Placed(nearest, out.ids, units)
        return self._opened[space.id]


def _extend(found: list[Near], more: Sequence[Near]) -> None:
    """Add who is not among them yet."""
    known = {one.version_id for one in found}
    found += [one for one in more if one.version_id not in known]
