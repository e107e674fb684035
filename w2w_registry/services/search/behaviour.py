"""Searching by behaviour: whom an adapter draws, held against what the registered ones make the base model draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.fingerprints import Answers, VerdictCalibration
from w2w_registry.catalog.identities import named
from w2w_registry.commands import command
from w2w_registry.errors import MissingExtra, NoFingerprints, NotFound, UsageError
from w2w_registry.lora import find_loras
from w2w_registry.messages import message
from w2w_registry.records import Result
from w2w_registry.services.recording.fingerprints import Prober, open_prober
from w2w_registry.services.recording.gallery import best_question, fitting, written
from w2w_registry.services.recording.pipelines import at_hand, saying_where
from w2w_registry.services.recording.subjects import people_of
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.space.people import learn_unspoilt
from w2w_registry.space.verdict import LEAST_GALLERY, Repeats

Float32 = NDArray[np.float32]
RETRAINED: Final = "retrained"


# -- learning from repeats -----------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Calibrated(Result):
    """How many people and repeats (by way of training) a model of verdicts learned from, of which base model's answers
    to which question; names of adapters that nobody registered has."""

    base: str
    question: str
    people: int
    repeats: Mapping[str, int]
    unknown: list[str]


def calibrate(
    registry: Registry, prober: Prober, folders: Sequence[str], *, progress: Progress = no_progress
) -> Calibrated:
    """Learn how trainings of one person differ, from second trainings of registered people.

    Args:
        folders: each holds adapters named as the identities they repeat are. The first is trained as the registered
            ones were; every further one in a way of its own (another rank, start or tool).

    Raises:
        UsageError: fewer repeats than teach anything. NotFound: no adapter's name is registered.
    """
    from w2w_registry.diffusion.fingerprint import read_adapter

    with registry.catalog.read() as session:
        prober = fitting(session, prober)
        asked = best_question(session, prober)
        if asked is None:
            raise NoFingerprints(least=LEAST_GALLERY, of=" of this base model")
        answers = stored.answers(session, asked.base, asked.question)
        people = people_of(session, answers.versions, answers.identities)
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
    model = learn_unspoilt(answers.matrix, given, people=people)
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
                data=written(model),
            )
        )
        uow.session.flush()
        uow.event("verdict.calibrate", {"verdict_calibration": row.id}, repeats=sum(counts.values()))
    return Calibrated(asked.base, asked.question, len(np.unique(people)), counts, sorted(unknown))


def calibrate_at_hand(
    registry: Registry, base_model: str, folder: str, *, progress: Progress = no_progress
) -> Calibrated | str:
    """As ``calibrate``, where the base model and the registered's fingerprints are at hand; else what is missing, and
    how to make up for it: nobody's fingerprints are an error when it is a space that was asked for."""
    pipeline = at_hand(registry, base_model)
    why = f"{base_model} is not on this machine ({saying_where(base_model)})"
    if pipeline is not None:
        try:
            return calibrate(registry, open_prober(pipeline), [folder], progress=progress)
        except UsageError as error:
            why = message(error)
        except NotFound:
            why = "nobody of these names is registered"
        except MissingExtra as error:
            why = f"{error.package} is not installed"
    later = f"once the identities are added, run `{command('calibrate', repeats=folder)}`"
    return f"what repeats draw was not learned: {why}; {later}"


def _names(session: Session, answers: Answers) -> list[str]:
    """Identity name of every row."""
    known = named(session, answers.versions.tolist())
    return [known[version].name for version in answers.versions.tolist()]
