"""Which of a search's results are the very model that was asked for: that is certain, where a score is a likelihood."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import Version
from w2w_registry.errors import RegistryError
from w2w_registry.lora import read_adapter
from w2w_registry.services.recording.equivalents import copies_of_adapter, copies_of_version
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.found import Found, Hit

ALIKE: Final = 0.98
"""Cosine from which on two models may be one: what may be lost and the model still be called the same moves a cosine by
far less than the rest."""


def with_copies(registry: Registry, session: Session, version: Version | None, path: Path, found: Found) -> Found:
    """What a search found, the results that are the query's own model told so, whatever its file: "same", and no
    stranger's. ΔW is compared only where a result comes near enough to be it.

    Args:
        version: the query, when it is registered. path: its file, when it is not.
    """
    known: dict[tuple[str, int], str] = {}
    if version is not None:
        own = refs_of(session, [version.id])[version.id]
        known[own.name, version.number] = "the query itself"
    if any(_near(hit) and (hit.identity, hit.version) not in known for hit in found.results):
        with suppress(RegistryError):  # it has been searched with: nothing is hidden but a remark
            copies = (
                copies_of_adapter(registry, session, read_adapter(path))
                if version is None
                else copies_of_version(registry, session, version)
            )
            refs = refs_of(session, [one.id for one, _ in copies])
            known = {(refs[one.id].name, one.number): how for one, how in copies} | known
    return replace(found, results=tuple(_told(found.results, known)))


def alpha_remarks(source: str) -> tuple[str, ...]:
    """What to tell of an adapter whose alpha is guessed (its ``alpha_source`` is ``default``): a PEFT file without its
    settings is taken to draw weaker or stronger than it does, so that whoever it shows may not be found."""
    if source != "default":
        return ()
    return ("its file states no alpha, so its rank is taken; if it has an adapter_config.json, search with both files",)


def _near(hit: Hit) -> bool:
    return hit.verdict in ("same", "likely") or hit.score >= ALIKE


def _told(hits: Iterable[Hit], known: dict[tuple[str, int], str]) -> Iterable[Hit]:
    for hit in hits:
        how = known.get((hit.identity, hit.version))
        yield hit if how is None else replace(hit, same_model=how, verdict="same", same_identity=True, false_alarm=0.0)
