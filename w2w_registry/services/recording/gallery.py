"""Everybody who answered one question about what they draw, and how to compare them with somebody new."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.assets import SERVED
from w2w_registry.catalog.fingerprints import Asked, VerdictCalibration
from w2w_registry.records import VersionState
from w2w_registry.services.recording import kept_galleries
from w2w_registry.services.recording.fingerprints import Prober
from w2w_registry.services.recording.kept_galleries import LARGE, Calibrated, open_kept
from w2w_registry.services.recording.subjects import people_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.people import learn_unspoilt
from w2w_registry.space.verdict import LEAST_GALLERY, VerdictModel, Verdicts

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Gallery:
    """Everybody who answered one question, and how to compare them. ``versions``, their ``identities`` and ``people``
    (n,): one number a person (versions of one identity, identities of one subject). ``points`` (n, d): what each
    answered, on the model's directions."""

    asked: Asked
    versions: NDArray[np.int64]
    identities: NDArray[np.int64]
    people: NDArray[np.int64]
    points: NDArray[Any]
    model: VerdictModel

    @cached_property
    def size(self) -> int:
        """How many different people."""
        return len(np.unique(self.people))

    def verdicts(self, fingerprints: Float32) -> tuple[NDArray[np.float64], list[Verdicts]]:
        """Scores (q, n) against every answer, and what each search concludes."""
        scores = self.model.score_projected(self.model.project(fingerprints), self.points)
        return scores, [self.model.judge(row, self.size) for row in scores]


@dataclass(frozen=True, eq=False)
class Answered:
    """A gallery with what everybody answered, ``matrix`` (n, D): for comparing everybody with everybody."""

    gallery: Gallery
    matrix: Float32


def best_question(session: Session, prober: Prober | None = None) -> Asked | None:
    """What most versions have answered (of the prober's base and prompt, where one is opened); None: too few have."""
    for asked in stored.questions(session):
        if prober is None or (asked.base, asked.question) == (prober.base, prober.question):
            return asked if asked.versions >= LEAST_GALLERY else None
    return None


def fitting(session: Session, prober: Prober) -> Prober:
    """The prober with its own question, or with the one that versions have answered where too few have answered that:
    of the same base and prompt, with an earlier release's probes."""
    from w2w_registry.diffusion.fingerprint import QUESTIONS

    if best_question(session, prober) is not None:
        return prober
    for asked in stored.questions(session):
        probes, _, prompt = asked.question.partition(" ")
        if (asked.base, prompt) == (prober.base, prober.prompt) and probes in QUESTIONS:
            return replace(prober, question=asked.question)
    return prober


def open_gallery(
    registry: Registry, session: Session, asked: Asked, states: Iterable[VersionState] = SERVED
) -> Gallery:
    """Everybody who answered, compared by what `calibrate` learned, or by what is presumed where nothing was. A large
    one is kept from one time to the next (``kept_galleries``).

    Args:
        states: of the versions taken for registered.

    Raises:
        UsageError: too few people.
    """
    if asked.versions < LARGE:
        return open_answered(session, asked, states).gallery
    kept = open_kept(registry, session, asked, _calibrated(session, asked))
    wanted = np.isin(kept.listed.states, [stored.STATES.index(state) for state in states])
    every = bool(wanted.all())
    versions, identities, people = (
        column if every else column[wanted] for column in (kept.listed.versions, kept.listed.identities, kept.people)
    )
    return Gallery(asked, versions, identities, people, kept.points if every else kept.points[wanted], kept.model)


def keep_ready(registry: Registry) -> None:
    """Have a large gallery kept before anybody searches it.

    Raises:
        UsageError: too few people.
    """
    with registry.catalog.read() as session:
        asked = best_question(session)
        if asked is not None and asked.versions >= LARGE:
            open_gallery(registry, session, asked)


def forget(registry: Registry) -> None:
    """Learn what is kept anew, once somebody was erased.

    Raises:
        StorageError: something that was learned from them could not be taken away.
    """
    with registry.catalog.read() as session:
        asked = stored.questions(session)
        kept_galleries.forget(registry, session, [(one, _calibrated(session, one)) for one in asked])


def _calibrated(session: Session, asked: Asked) -> Calibrated | None:
    row = stored.newest_calibration(session, asked.base, asked.question)
    return None if row is None else (row.id, read_model(row))


def open_answered(session: Session, asked: Asked, states: Iterable[VersionState] = SERVED) -> Answered:
    """As ``open_gallery``, with everything that was answered.

    Raises:
        UsageError: too few people.
    """
    answers = stored.answers(session, asked.base, asked.question, states)
    people = people_of(session, answers.versions, answers.identities)
    row = stored.newest_calibration(session, asked.base, asked.question)
    model = learn_unspoilt(answers.matrix, people=people) if row is None else read_model(row)
    points = model.project(answers.matrix)
    return Answered(Gallery(asked, answers.versions, answers.identities, people, points, model), answers.matrix)


def written(model: VerdictModel) -> bytes:
    """A model as it is kept."""
    out = io.BytesIO()
    arrays: dict[str, Any] = {key: np.asarray(value, np.float32) for key, value in model.to_arrays().items()}
    np.savez(out, **arrays)
    return out.getvalue()


def read_model(row: VerdictCalibration) -> VerdictModel:
    """A model that was kept."""
    with np.load(io.BytesIO(row.data), allow_pickle=False) as file:
        return VerdictModel.from_arrays({key: file[key] for key in file.files})
