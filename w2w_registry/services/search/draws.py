"""``search --by behaviour``: whom does this adapter draw?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.identities import named
from w2w_registry.catalog.listing import matching_ids
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.where import parse_where
from w2w_registry.consent.records import Use
from w2w_registry.errors import NoFingerprints, RegistryError, UsageError
from w2w_registry.messages import message
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.recording.fingerprints import Prober
from w2w_registry.services.recording.gallery import Gallery, best_question, fitting, open_gallery
from w2w_registry.services.registry import Registry, present
from w2w_registry.services.search.copies import with_copies
from w2w_registry.services.search.found import Found, Hit, Query
from w2w_registry.services.search.query import registered_version, search_many
from w2w_registry.space.verdict import LEAST_GALLERY

By = Literal["weights", "behaviour", "both"]
AT_ONCE: Final = 64
Opener = Callable[[], Prober]
"""Opens the base model when a query needs it: a registered one with a fingerprint does not."""


def search_by(
    registry: Registry,
    queries: Sequence[str | Query],
    by: By | None = None,
    *,
    opener: Opener | None = None,
    limit: int = 10,
    space: str | None = None,
    where: str | None = None,
    include_blocked: bool = False,
    exact: bool = False,
    certified: bool = False,
    fast: bool = False,
) -> list[Found]:
    """As :func:`query.search_many`, by weights, by behaviour, or by behaviour with the weights' scores beside it.

    ``by`` None is the best that can be had: behaviour where every query has a fingerprint or ``opener`` is given, and
    enough registered versions have one; else weights.

    Raises:
        UsageError: behaviour was asked for and cannot be had. BadLora, NotFound, ConsentDenied: as by weights.
    """
    wanted = [Query(q) if isinstance(q, str) else q for q in queries]
    common: dict[str, Any] = {"limit": limit, "space": space, "where": where, "include_blocked": include_blocked}
    common |= {"exact": exact, "certified": certified, "fast": fast}
    if by == "weights" or (by is None and (space is not None or not _ready(registry, wanted, opener))):
        return search_many(registry, wanted, **common)
    found = _search(registry, wanted, opener, limit, where)
    return (
        [_with_weights(registry, q, f, common) for q, f in zip(wanted, found, strict=True)] if by == "both" else found
    )


def _ready(registry: Registry, queries: Sequence[Query], opener: Opener | None) -> bool:
    with registry.catalog.read() as session:
        asked = best_question(session)
        if asked is None:
            return False
        if opener is not None:
            return True
        versions = [registered_version(session, q) for q in queries]
        return all(v is not None and stored.answered(session, asked.base, asked.question, [v.id]) for v in versions)


def _search(
    registry: Registry,
    queries: Sequence[Query],
    opener: Opener | None,
    limit: int,
    where: str | None,
) -> list[Found]:
    expression = None if where is None else parse_where(where)
    with registry.catalog.read() as session:
        versions = [registered_version(session, query) for query in queries]
        for version in versions:
            if version is not None:
                gate.require(registry, Use.SEARCH, versions=[version.id], session=session)
        asked = best_question(session)
        prints = [None if v is None or asked is None else stored.answer_of(session, v.id, asked.base, asked.question)
                  for v in versions]  # fmt: skip
        if asked is None:  # before the base model is loaded, which takes seconds
            raise NoFingerprints(least=LEAST_GALLERY)
        if any(p is None for p in prints):
            prober = fitting(session, _opened(opener, queries, prints))
            asked = best_question(session, prober)
            if asked is None:
                raise NoFingerprints(least=LEAST_GALLERY, of=" of this base model")
            prints = [_asked(registry, session, prober, query, version)
                      for query, version in zip(queries, versions, strict=True)]  # fmt: skip
        gallery = open_gallery(session, asked)
        allowed = None if expression is None else np.asarray(matching_ids(session, expression, None))
        found: list[Found] = []
        for start in range(0, len(queries), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            matrix = np.stack([p for p in prints[part] if p is not None])
            scores, verdicts = gallery.verdicts(matrix)
            found += [
                _found(registry, session, gallery, query, row, verdict.false_alarm, verdict.word, limit, allowed)
                for query, row, verdict in zip(queries[part], scores, verdicts, strict=True)
            ]
        return [
            with_copies(registry, session, version, query.path, one)
            for query, version, one in zip(queries, versions, found, strict=True)
        ]


def _opened(opener: Opener | None, queries: Sequence[Query], prints: Sequence[object]) -> Prober:
    if opener is None:
        without = next(q.text for q, p in zip(queries, prints, strict=True) if p is None)
        raise UsageError(
            reason=f"{without} has no fingerprint yet, and no base model is open to take one",
            hint="say where the base model is with [[pipeline]]",
        )
    return opener()


def _asked(
    registry: Registry, session: Session, prober: Prober, query: Query, version: Version | None
) -> NDArray[np.float32]:
    if version is None:
        return prober.of_file(query.path)
    kept = stored.answer_of(session, version.id, prober.base, prober.question)
    if kept is not None:
        return kept
    path = None if version.artifact_digest is None else registry.artifacts.path(version.artifact_digest)
    if path is None:
        raise NoFingerprints(name=query.text)
    return prober.of_file(path)


def _found(
    registry: Registry,
    session: Session,
    gallery: Gallery,
    query: Query,
    scores: NDArray[np.float64],
    alarms: NDArray[np.float64],
    words: Sequence[str],
    limit: int,
    allowed: NDArray[np.int64] | None,
) -> Found:
    """The best version of each of the best ``limit`` identities."""
    versions, identities = gallery.answers.versions, gallery.answers.identities
    order = np.argsort(-scores, kind="stable")
    if allowed is not None:
        order = order[np.isin(versions[order], allowed)]
    chosen = _best(identities, order, limit)
    ids = [int(versions[row]) for row in chosen]
    known = named(session, ids)
    consent = consent_states(session, ids, present(session), gate.rules_of(registry, session))
    hits = []
    for rank, (row, version) in enumerate(zip(chosen, ids, strict=True), start=1):
        one = known[version]
        alarm, word = float(alarms[row]), words[row]
        hits.append(
            Hit(
                rank,
                one.name,
                one.number,
                round(float(scores[row]), 4),
                word == "same",
                str(one.kind),
                str(consent[version]),
                by="behaviour",
                verdict=word,
                false_alarm=alarm,
            )
        )
    others = order[gallery.people[order] != gallery.people[order[0]]] if len(order) else order
    gap = round(float(scores[order[0]] - scores[others[0]]), 4) if len(others) else None
    warnings = () if gallery.model.learned else (
        "nothing was learned from repeats yet: plain cosine, which accepts fewer (see `w2w-reg calibrate`)",
    )  # fmt: skip
    return Found(
        query.text,
        None,
        "likelihood ratio" if gallery.model.learned else "cosine",
        None,
        tuple(hits),
        None,
        None,
        warnings,
        by="behaviour",
        base=gallery.asked.base,
        people=gallery.size,
        gap=gap,
    )


def _best(identities: NDArray[np.int64], order: Iterable[int], limit: int) -> list[int]:
    """The first row of each of the first ``limit`` identities, in this order of rows."""
    best: dict[int, int] = {}
    for row in order:
        best.setdefault(int(identities[row]), int(row))
        if len(best) == limit:
            break
    return list(best.values())


def _with_weights(registry: Registry, query: Query, found: Found, common: dict[str, Any]) -> Found:
    """The same results with what weights say of each, where weights can be compared at all."""
    try:
        (by_weights,) = search_many(registry, [query], **(common | {"limit": 10_000}))
    except RegistryError as error:
        return replace(found, by="both", warnings=(*found.warnings, f"weights cannot be compared: {message(error)}"))
    scores = {(h.identity, h.version): h.score for h in by_weights.results}
    hits = tuple(replace(h, by="both", score_weights=scores.get((h.identity, h.version))) for h in found.results)
    return replace(found, by="both", results=hits)
