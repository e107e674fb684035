"""Searching by behaviour: whom an adapter draws, held against what the registered ones make the base model draw."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.fingerprints import Answers, Asked, VerdictCalibration
from w2w_registry.catalog.identities import named
from w2w_registry.catalog.lookup import subjects_of
from w2w_registry.errors import NotFound, UsageError
from w2w_registry.lora import find_loras
from w2w_registry.services.recording.fingerprints import Prober
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.space.verdict import LEAST_GALLERY, Repeats, VerdictModel, Verdicts, learn

Float32 = NDArray[np.float32]
RETRAINED: Final = "retrained"


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


def open_gallery(session: Session, asked: Asked) -> Gallery:
    """Everybody who answered, compared by what `calibrate` learned, or by plain cosine where nothing was.

    Raises:
        UsageError: too few people.
    """
    answers = stored.answers(session, asked.base, asked.question)
    people = _people(session, answers)
    kept = stored.newest_calibration(session, asked.base, asked.question)
    model = learn(answers.matrix, people=people) if kept is None else _read(kept)
    return Gallery(asked, answers, people, model)


def _people(session: Session, answers: Answers) -> NDArray[np.int64]:
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


# -- learning from repeats -----------------------------------------------------------------------------
def calibrate(
    registry: Registry, prober: Prober, folders: Sequence[str], *, progress: Progress = no_progress
) -> dict[str, Any]:
    """Learn how trainings of one person differ, from second trainings of registered people.

    Args:
        folders: each holds adapters named as the identities they repeat are. The first is trained as the registered
            ones were; every further one in a way of its own (another rank, start or tool).

    Raises:
        UsageError: fewer repeats than teach anything. NotFound: no adapter's name is registered.
    """
    from w2w_registry.diffusion.fingerprint import read_adapter

    with registry.catalog.read() as session:
        asked = best_question(session, prober)
        if asked is None:
            raise UsageError(
                reason=f"fewer than {LEAST_GALLERY} registered versions have a fingerprint of this base model",
                hint="take them with `w2w-reg fingerprint --all`",
            )
        answers = stored.answers(session, asked.base, asked.question)
        people = _people(session, answers)
        names = _names(session, answers)
    row_of = {name: row for row, name in enumerate(names)}
    given, unknown = [], []
    for number, folder in enumerate(folders):
        found = find_loras([folder])
        known = [c for c in found if c.name in row_of]
        unknown += [c.name for c in found if c.name not in row_of]
        if not known:
            raise NotFound(what="registered identity named as an adapter", name=f"in {folder}")
        prints = prober.of_adapters([read_adapter(c.path) for c in known], progress)
        name = RETRAINED if number == 0 else Path(folder).name
        given.append(Repeats(name, prints, np.array([row_of[c.name] for c in known])))
    model = learn(answers.matrix, given, people=people)
    if not model.learned:
        raise UsageError(reason=f"{len(np.asarray(given[0].rows))} repeats teach nothing yet", hint="16 are the fewest")
    counts = {t.name: t.count for t in model.trainings}
    with registry.catalog.write(registry.actor) as uow:
        row = uow.add(
            VerdictCalibration(
                base=asked.base,
                question=asked.question,
                repeats=sum(counts.values()),
                people=len(np.unique(people)),
                created=uow.now(),
                data=_written(model),
            )
        )
        uow.session.flush()
        uow.event("verdict.calibrate", {"verdict_calibration": row.id}, repeats=sum(counts.values()))
    return {
        "base": asked.base,
        "question": asked.question,
        "people": len(np.unique(people)),
        "repeats": counts,
        "unknown": sorted(unknown),
    }


def _names(session: Session, answers: Answers) -> list[str]:
    """Identity name of every row."""
    known = named(session, answers.versions.tolist())
    return [known[version].name for version in answers.versions.tolist()]


def _written(model: VerdictModel) -> bytes:
    out = io.BytesIO()
    arrays: dict[str, Any] = {key: np.asarray(value, np.float32) for key, value in model.to_arrays().items()}
    np.savez(out, **arrays)
    return out.getvalue()


def _read(row: VerdictCalibration) -> VerdictModel:
    with np.load(io.BytesIO(row.data), allow_pickle=False) as file:
        return VerdictModel.from_arrays({key: file[key] for key in file.files})
