"""Whom a weight space may be fitted on: fitting is a use, and a space of a few people is those people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from w2w_registry.catalog.lookup import versions_by_model
from w2w_registry.commands import command
from w2w_registry.consent.records import Use
from w2w_registry.consent.rules import Rules
from w2w_registry.errors import BadLora, RegistryError, UsageError
from w2w_registry.records import counted, nearness
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door
from w2w_registry.services.consent.results import hold_models
from w2w_registry.services.recording import policies
from w2w_registry.services.recording.likeness import of_theta
from w2w_registry.services.recording.newcomers import Asked, Newcomer, ask, can_ask
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.fitset import FitSet
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.sketch import Sketch, distance

LEAST, FEW = 20, 100
"""Distinct people a space is fitted on at least (``[policy] space_people``), and below which it is warned about."""
_APART = 0.3
"""Relative distance of sketches from which on two LoRAs are two people; copies, noise and mixtures lie below it. The
mini world's second trainings of one person lie at 0.6, so this counts generously."""


def only_allowed(registry: Registry, fit_set: FitSet, base_model: str) -> FitSet:
    """The fit set without whoever refused, by weights and by what they draw, and without registered members whom their
    consent does not let be trained on; they are said to be left out.

    Raises:
        SettingError: the door's key is not the one it was.
    """
    with registry.catalog.read() as session:
        anybody = Door(registry, session).anybody
    return _consenting(registry, _not_refused(registry, fit_set, base_model) if anybody else fit_set)


def _consenting(registry: Registry, fit_set: FitSet) -> FitSet:
    """Without registered members whose subjects, or whose ancestors' subjects, do not allow training."""
    kept = np.ones(len(fit_set.members), bool)
    refused: list[RegistryError] = []
    with registry.catalog.read() as session:
        known = versions_by_model(session, {m.model_digest for m in fit_set.members})
        said = gate.ask_each(registry, Use.TRAIN, {ids[-1]: None for ids in known.values()}, session=session)
    for row, member in enumerate(fit_set.members):
        decision = said[known[member.model_digest][-1]] if member.model_digest in known else None
        if decision is not None and not decision.allowed:
            refused.append(BadLora(path=member.name, reason="; ".join(map(str, decision.reasons))))
            kept[row] = False
    return fit_set.only(kept, *refused)


def hold_space(registry: Registry, space: WeightSpace, name: str) -> None:
    """Raise when what a space is made around, its mean and where its identities lie about, is somebody who refused.

    Raises:
        LikenessRefused, SettingError.
    """
    hold_models(registry, space.layout, list(space.centres()), base_model=space.base_model, path=name, centres=True)


def _not_refused(registry: Registry, fit_set: FitSet, base_model: str) -> FitSet:
    kept = np.ones(len(fit_set.members), bool)
    refused: list[RegistryError] = []
    sees = can_ask(registry, base_model)
    with registry.catalog.read() as session:
        door = Door(registry, session)
        for part, block in fit_set.blocks():
            newcomers = [Newcomer(base_model, layout=fit_set.layout, theta=theta) for theta in block]
            drawn = ask(registry, newcomers) if sees else [Asked() for _ in newcomers]
            for row, theta, answer in zip(range(part.start, part.stop), block, drawn, strict=True):
                met = door.meets(replace(of_theta(theta, fit_set.layout), prints=answer.prints), {})
                if met is not None and met.refused:
                    reason = (
                        f"it is too near {met.subject}, who refused ({nearness(met.by, met.similarity, met.threshold)})"
                    )
                    refused.append(BadLora(path=fit_set.members[row].name, reason=reason))
                    kept[row] = False
    return fit_set.only(kept, *refused)


def enough_people(registry: Registry, fit_set: FitSet) -> str | None:
    """A warning when the fit set shows few people, None when it shows enough.

    Raises:
        UsageError: fewer than ``[policy] space_people``. SettingError: that is not a number.
    """
    with registry.catalog.read() as session:
        least = Rules.from_settings(policies.in_force(registry, session)).space_people
    found = distinct(fit_set, max(least, FEW))
    if found < least:
        raise UsageError(
            reason=f"these LoRAs show {counted(found, 'clearly different one')}, a space needs {least}: what is made "
            "in a space of a few people is those people",
            hint="fit on more, or set `space_people` under [policy] in registry.toml and run "
            f"`{command('policy set')}`",
        )
    if found < FEW:
        return f"fitted on {found} clearly different LoRAs: what is made in it may come out near one of them"
    return None


def distinct(fit_set: FitSet, enough: int) -> int:
    """How many members are clearly apart from one another, counted no further than ``enough``."""
    apart: list[Sketch] = []
    for theta in fit_set.thetas:
        mine = of_theta(theta, fit_set.layout).sketch
        if mine is not None and _is_apart(mine, apart):
            apart.append(mine)
            if len(apart) >= enough:
                break
    return len(apart)


def _is_apart(mine: Sketch, others: Sequence[Sketch]) -> bool:
    return all(distance(mine, other) >= _APART for other in others)
