"""Who is this? Asked with a registered version, an adapter file or a photo; pages and API answer from here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final

from fastapi import UploadFile

from w2w_registry.errors import RegistryError
from w2w_registry.services.identities.ingest import add
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.search.draws import By, Opener, search_by
from w2w_registry.services.search.found import Found, Query
from w2w_registry.services.search.query import search
from w2w_registry.services.synthesis import invert, looking
from w2w_registry.web import uploads
from w2w_registry.web.jobs import ENDED
from w2w_registry.web.problems import Problem, problem_of
from w2w_registry.web.site import Desk

PATIENCE: Final = 300.0


@dataclass(frozen=True)
class Asking:
    """What is wanted to know. ``by`` None: by behaviour where that can be had, else by weights."""

    limit: int = 10
    space: str | None = None
    where: str | None = None
    by: By | None = None


@dataclass(frozen=True)
class Registering:
    """What was sent is to be registered as well, under this name and as depicting these subjects."""

    name: str
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What was found. ``photo``: whether a photo asked. ``outside``: share of the adapter that the space compared in
    cannot say, or why weights say nothing of it. ``registered``: the reference of what was registered; ``already``: it
    was there before, whatever name was asked for."""

    found: Found
    photo: bool = False
    outside: float | None = None
    unplaced: str | None = None
    registered: str | None = None
    already: bool = False


def registered_version(desk: Desk, ref: str, asked: Asking) -> Found:
    """Who is near a registered version; ``ref`` is one, never a path.

    Raises:
        RegistryError.
    """
    return _search(desk, ref, asked)


async def sent(desk: Desk, files: Sequence[UploadFile], asked: Asking, register: Registering | None = None) -> Answer:
    """Who was sent, worked out where pictures are drawn, because the base model is one. Nothing is registered unless
    ``register`` says so.

    Raises:
        RegistryError: what was sent cannot be used. Problem: too many wait already, or it took too long.
    """
    kept: list[Answer] = []

    def look() -> bytes:
        with uploads.received(desk.registry, files) as given:
            kept.append(_answer(desk, given, asked, register))
        return b""

    owner = f"{desk.who.actor} {desk.who.csrf}"
    job = desk.site.jobs.submit(owner, object(), look, lane=f"who {id(kept)}")
    for _ in range(int(PATIENCE / 0.03)):
        if job.state in ENDED:
            break
        await asyncio.sleep(0.03)
    desk.site.jobs.forget(job)
    if kept:
        return kept[0]
    if job.error is not None:
        raise job.error
    raise Problem(503, "busy", job.why or "the answer took too long; ask again later", {"retry-after": "30"})


def _answer(desk: Desk, given: uploads.Sent, asked: Asking, register: Registering | None) -> Answer:
    with desk.registry.temporary_folder() as folder:
        if given.photo:
            (query,) = looking.as_queries(
                desk.registry, [str(given.path)], desk.site.engine, space=asked.space, folder=folder
            )
            query = replace(query, text=given.name)
        else:
            query = Query(given.name, given.path)
        answer = Answer(_search(desk, query, asked), given.photo)
        if not given.photo:
            answer = _placed(desk, query, asked, answer)
    if register is None:
        return answer
    ref, already = _register(desk, given, asked, register)
    return replace(answer, registered=ref, already=already)


def _search(desk: Desk, query: str | Query, asked: Asking) -> Found:
    opener = opener_of(desk)
    with nullcontext() if opener is None else desk.site.engine.lock:  # without the base model nobody waits
        (found,) = search_by(
            desk.registry,
            [query],
            asked.by,
            opener=opener,
            limit=asked.limit,
            space=asked.space,
            where=asked.where,
        )
    return found


def opener_of(desk: Desk) -> Opener | None:
    """Opens the base model for fingerprints, where the gallery was told of one."""
    engine = desk.site.engine
    return None if engine.pipeline is None else lambda: engine.prober(desk.registry)


def _placed(desk: Desk, query: Query, asked: Asking, answer: Answer) -> Answer:
    """How much of an adapter its space cannot say, also where behaviour answered."""
    if answer.found.residual is not None:
        return replace(answer, outside=answer.found.residual)
    try:
        by_weights = search(desk.registry, query, limit=1, space=asked.space)
    except RegistryError as error:
        return replace(answer, unplaced=problem_of(error).detail)
    found = replace(answer.found, warnings=tuple(dict.fromkeys([*answer.found.warnings, *by_weights.warnings])))
    return replace(answer, found=found, outside=by_weights.residual)


def _register(desk: Desk, given: uploads.Sent, asked: Asking, register: Registering) -> tuple[str, bool]:
    """The reference of what was sent, now a version, and whether it was one before: by the ordinary way of its kind,
    with all its refusals."""
    if given.photo:
        inversion = invert.InvertRequest(
            photos=[str(given.path)],
            name=register.name,
            space=asked.space,
            subjects=register.subjects,
            engine=desk.site.engine,
        )
        with desk.site.engine.lock:
            return str(invert.invert(desk.registry, inversion)[0]["ref"]), False
    addition = AddRequest(paths=(str(given.path),), name=register.name, space=asked.space, subjects=register.subjects)
    (item,) = add(desk.registry, addition).items
    if item.error is not None:
        raise item.error
    return f"{item.identity}@{item.version}", item.status == "existing"
