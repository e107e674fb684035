"""What one person is let decide: the events after which somebody who refused may be drawn again.

Read off the run's own audit log, where every decision says by whom it was made; nothing is known of the moves. One
person decides alone where the policy of a registry of one person says so, and anywhere on evidence that they give. A
person is let out by the event in which one person forgot them, or said that they agree again; a model, and whoever it
draws, by the one in which one person said whom it shows. Whom it draws the eyes say, not the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy.orm import Session

from w2w_registry.catalog.event_log import Event
from w2w_registry.catalog.events import events
from w2w_registry.catalog.models import Version
from w2w_registry.diffusion.adapters import Adapter, read_adapter
from w2w_registry.errors import RegistryError
from w2w_registry.services.consent.second_person import DECIDED, EVIDENCE, ONE
from w2w_registry.services.recording.sources import open_space_of, source
from w2w_registry.services.registry import Registry

ON: Final = {ONE: "policy", EVIDENCE: "evidence"}
OF_PEOPLE: Final = ("consent.withdraw", "consent.grant", "consent.renew", "consent.resolve")
OF_MODELS: Final = ("version.resolve", "version.depict")


class Judge(Protocol):
    """Who says whom of some rows a model draws (``eyes.Eyes``)."""

    def shows(self, adapters: Sequence[Adapter], refusing: Sequence[frozenset[int]]) -> list[int | None]: ...


@dataclass(frozen=True)
class Allowed:
    """The event, what was decided in it, and ``on`` what: the ``policy``, or ``evidence``."""

    seq: int
    actor: str
    what: str
    on: str


def allowed_by(registry: Registry, eyes: Judge, row: int, subject: str, until: int) -> Allowed | None:
    """The first event up to ``until`` by which one person alone let ``row`` out; None: nothing explains it."""
    with registry.catalog.read() as session:
        for event in events(session, until=until):
            on = ON.get(str(event.payload.get(DECIDED)))
            if on is None:
                continue
            if event.action in OF_PEOPLE and subject.casefold() in {s.casefold() for s in _ids(event, "subject")}:
                return Allowed(event.seq, event.actor, f"{event.action} of {subject}", on)
            if event.action in OF_MODELS:
                for number, adapter in _models(registry, session, event):
                    if eyes.shows([adapter], [frozenset({row})]) == [row]:
                        what = f"{event.action} of version {number}, which draws them"
                        return Allowed(event.seq, event.actor, what, on)
    return None


def _ids(event: Event, kind: str) -> list[str]:
    found: Any = event.objects.get(kind)
    return [str(one) for one in (found if isinstance(found, list) else [] if found is None else [found])]


def _models(registry: Registry, session: Session, event: Event) -> Iterator[tuple[str, Adapter]]:
    """What is left of the versions that an event is about."""
    for number in _ids(event, "version"):
        version = session.get(Version, int(number))
        if version is None:
            continue
        try:
            yield number, _adapter(registry, session, version)
        except (RegistryError, ValueError):
            continue  # erased since: what it drew cannot be seen any more


def _adapter(registry: Registry, session: Session, version: Version) -> Adapter:
    if version.artifact_digest is not None:
        with registry.artifacts.local(version.artifact_digest) as path:
            return read_adapter(path)
    at = source(session, version)
    _, space = open_space_of(registry, session, at.space_id)
    return Adapter(space.layout, space.reconstruct(at.coordinates))
