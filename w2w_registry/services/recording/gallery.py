"""Everybody who answered one question about what they draw, and how to compare them with somebody new."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.assets import SERVED
from w2w_registry.catalog.fingerprints import Answers, Asked, VerdictCalibration
from w2w_registry.catalog.lookup import subjects_of
from w2w_registry.records import VersionState
from w2w_registry.services.recording.fingerprints import Prober
from w2w_registry.space.people import learn_unspoilt
from w2w_registry.space.verdict import LEAST_GALLERY, VerdictModel, Verdicts

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Gallery:
    """Everybody in service who answered one question, and how to compare them. ``people`` (n,): one number a person
    (versions of one identity, identities of one subject)."""

    asked: Asked
    answers: Answers
    people: NDArray[np.int64]
    model: VerdictModel

    @property
    def size(self) -> int:
        """How many different people."""
        return len(np.unique(self.people))

    def verdicts(self, fingerprints: Float32) -> tuple[NDArray[np.float64], list[Verdicts]]:
        """Scores (q, n) against every answer, and what each search concludes."""
        scores = self.model.score(fingerprints, self.answers.matrix)
        return scores, [self.model.judge(row, self.size) for row in scores]


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


def open_gallery(session: Session, asked: Asked, states: Iterable[VersionState] = SERVED) -> Gallery:
    """Everybody who answered, compared by what `calibrate` learned, or by plain cosine where nothing was.

    Args:
        states: of the versions taken for registered.

    Raises:
        UsageError: too few people.
    """
    answers = stored.answers(session, asked.base, asked.question, states)
    people = people_of(session, answers)
    kept = stored.newest_calibration(session, asked.base, asked.question)
    model = learn_unspoilt(answers.matrix, people=people) if kept is None else read_model(kept)
    return Gallery(asked, answers, people, model)


def people_of(session: Session, answers: Answers) -> NDArray[np.int64]:
    """A number for each row's person: identities that depict one subject are one."""
    parent: dict[Any, Any] = {}

    def root(x: Any) -> Any:
        while parent.setdefault(x, x) != x:
            x = parent[x]
        return x

    subjects = subjects_of(session, {int(v) for v in answers.versions})
    for version, identity in zip(answers.versions.tolist(), answers.identities.tolist(), strict=True):
        own = root(("identity", identity))
        said = subjects.get(version, ())
        if len(said) == 1:
            parent[own] = root(("subject", next(iter(said))))
    roots = [root(("identity", i)) for i in answers.identities.tolist()]
    numbers = {r: n for n, r in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[r] for r in roots], np.int64)


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
