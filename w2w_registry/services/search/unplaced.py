"""``search`` for what no weight space holds: the very same model, and how near the rest comes, by what each changes.

The sketches of ΔW (``space.sketch``) need no space, no format and no rank. They find a model again under any file; they
do not find another training of one person, which is for weight spaces and for behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import SERVED
from w2w_registry.catalog.identities import named
from w2w_registry.catalog.likeness import sketch_blocks
from w2w_registry.catalog.listing import matching_ids
from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.resolve import all_spaces
from w2w_registry.catalog.where import parse_where
from w2w_registry.consent.records import Use
from w2w_registry.errors import ForeignStart
from w2w_registry.lora import Adapter, lora_of, not_plain, read_adapter
from w2w_registry.messages import message
from w2w_registry.records import VersionState
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.recording.equivalents import copies_of_adapter, copies_of_version, stored_likeness
from w2w_registry.services.recording.likeness import of_adapter
from w2w_registry.services.recording.placement import same_model_id
from w2w_registry.services.registry import Registry, present
from w2w_registry.services.search.copies import alpha_remarks
from w2w_registry.services.search.found import Found, Hit, Query
from w2w_registry.services.search.query import registered_version, search_many
from w2w_registry.space.gauge import obstacles
from w2w_registry.space.layout import Layout
from w2w_registry.space.sketch import KIND, Sketch, unpacked

METRIC: Final = "sketch"
"""What ``Found.metric`` says of such a search."""


def homes(registry: Registry, queries: Sequence[Query]) -> list[str | None]:
    """The space in which each can be looked for: its own where it is registered, else the newest that its layers and
    its base model fit; None where there is none.

    Raises:
        NotFound: neither a registered name nor a path. BadLora: a file that cannot be read.
    """
    with registry.catalog.read() as session:
        spaces = list(reversed(all_spaces(session)))
        found: list[str | None] = []
        for query in queries:
            version = registered_version(session, query)
            if version is None:
                found.append(_home(read_adapter(query.path), spaces))
            else:
                found.append(None if version.space_id is None else session.get_one(Space, version.space_id).ref)
        return found


def by_weights(registry: Registry, queries: Sequence[Query], common: dict[str, Any]) -> list[Found]:
    """As :func:`query.search_many` with the options ``common``, each query in the space that holds it; what none holds
    is looked for by its sketch."""
    if common["space"] is not None:
        return search_many(registry, queries, **common)
    found: dict[int, Found] = {}
    places = homes(registry, queries)
    for place in dict.fromkeys(places):
        rows = [i for i, one in enumerate(places) if one == place]
        if place is not None:
            with suppress(ForeignStart):  # one of several: which is asked below
                answers = search_many(registry, [queries[i] for i in rows], **(common | {"space": place}))
                found |= zip(rows, answers, strict=True)
    return [
        found[i] if i in found else _one_by_weights(registry, query, common | {"space": places[i]})
        for i, query in enumerate(queries)
    ]


def _one_by_weights(registry: Registry, query: Query, common: dict[str, Any]) -> Found:
    why = None
    if common["space"] is not None:
        try:
            return search_many(registry, [query], **common)[0]
        except ForeignStart as error:
            why = message(error)
    more = {name: common[name] for name in ("limit", "where", "include_blocked")}
    return search_unplaced(registry, query, why=why, **more)


def _home(adapter: Adapter, newest_first: Sequence[Space]) -> str | None:
    if not_plain(adapter) is not None:
        return None
    lora = lora_of(adapter)
    for space in newest_first:
        if lora.base_model is not None and not same_model_id(lora.base_model, space.base_model):
            continue
        if not obstacles(lora.shapes, Layout.from_json(space.layout)):
            return space.ref
    return None


def search_unplaced(
    registry: Registry, query: Query, *, limit: int, where: str | None, include_blocked: bool, why: str | None = None
) -> Found:
    """The ``limit`` identities whose models come nearest, whatever space, format and rank they are of.

    Args:
        why: why no space holds it, to be told.

    Raises:
        NotFound, BadLora, ConsentDenied: as :func:`query.search`.
    """
    with registry.catalog.read() as session:
        version = registered_version(session, query)
        remarks: tuple[str, ...] = ()
        if version is None:
            adapter = read_adapter(query.path)
            remarks = alpha_remarks(adapter.alpha_source)
            sketch, copies = of_adapter(adapter).sketch, copies_of_adapter(registry, session, adapter)
        else:
            gate.require(registry, Use.SEARCH, versions=[version.id], session=session)
            sketch = stored_likeness(registry, session, version).sketch
            copies = [(version, "the query itself"), *copies_of_version(registry, session, version)]
        states = (*SERVED, VersionState.BLOCKED) if include_blocked else SERVED
        allowed = None
        if where is not None:
            allowed = {int(i) for i in matching_ids(session, parse_where(where), None, states=states)}
        same: dict[int, str] = {}
        for one, how in copies:
            if one.state in states and (allowed is None or one.id in allowed):
                same.setdefault(one.id, how)
        scores = _scores(session, sketch, states, allowed)
        hits = _hits(registry, session, same, scores, limit)
    warnings = [] if why is None else [why]
    if sketch is None:
        warnings.append("its change cannot be computed from its file: only copies of the same numbers are found")
    warnings += remarks
    gap = round(hits[0].score - hits[1].score, 6) if len(hits) > 1 else None
    return Found(query.text, None, METRIC, None, hits, None, None, tuple(warnings), people=len(scores), gap=gap)


def _scores(
    session: Session, sketch: Sketch | None, states: Sequence[VersionState], allowed: set[int] | None
) -> dict[int, float]:
    """The cosine of ΔW, as sketches estimate it, by version."""
    if sketch is None:
        return {}
    mine = sketch.values / (np.linalg.norm(sketch.values) or 1.0)
    found: dict[int, float] = {}
    for ids, data in sketch_blocks(session, KIND, states):
        rows = unpacked(data)
        sizes = np.linalg.norm(rows, axis=1)
        cosines = rows @ mine / np.where(sizes > 0, sizes, 1.0)
        found |= {i: float(c) for i, c in zip(ids, cosines, strict=True) if allowed is None or i in allowed}
    return found


def _hits(
    registry: Registry, session: Session, same: dict[int, str], scores: dict[int, float], limit: int
) -> tuple[Hit, ...]:
    """The best version of each identity: first those that are this very model."""
    order = sorted(scores.keys() | same.keys(), key=lambda i: (i not in same, -scores.get(i, 1.0), i))
    refs = refs_of(session, order)
    best: dict[str, int] = {}
    for version in order:
        best.setdefault(refs[version].name, version)
        if len(best) == limit:
            break
    ids = list(best.values())
    known = named(session, ids)
    consent = consent_states(session, ids, present(session), gate.rules_of(registry, session))
    return tuple(
        Hit(
            rank,
            known[i].name,
            known[i].number,
            round(1.0 if i in same else scores[i], 6),
            True if i in same else None,
            str(known[i].kind),
            str(consent[i]),
            verdict="same" if i in same else None,
            false_alarm=0.0 if i in same else None,
            same_model=same.get(i),
        )
        for rank, i in enumerate(ids, start=1)
    )
