"""``search --by behaviour``: whom does this adapter draw?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.assets import SERVED
from w2w_registry.catalog.identities import named
from w2w_registry.catalog.listing import matching_ids
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.where import parse_where
from w2w_registry.commands import command
from w2w_registry.consent.records import Use
from w2w_registry.errors import ConsentDenied, NoFingerprints, RegistryError, UsageError, WhereError
from w2w_registry.lora import read_adapter
from w2w_registry.messages import message
from w2w_registry.records import VersionState
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.recording.fingerprints import Prober, adapter_of
from w2w_registry.services.recording.gallery import Gallery, best_question, fitting, open_gallery
from w2w_registry.services.registry import Registry, present
from w2w_registry.services.search.copies import alpha_remarks, with_copies
from w2w_registry.services.search.found import Found, Hit, Query
from w2w_registry.services.search.query import registered_version
from w2w_registry.services.search.unplaced import by_weights
from w2w_registry.space.verdict import LEAST_GALLERY

if TYPE_CHECKING:
    from w2w_registry.diffusion.fingerprint import Adapter

By = Literal["weights", "behaviour", "both"]
AT_ONCE: Final = 64
PHOTO = (
    "a photo stands for the point of the space that draws it best, and strangers' photos score as high as those of "
    "registered people: the order tells something, the score does not, so nobody is called the same person"
)
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
    enough registered versions have one; else weights, as when a ``space`` or a ``fast`` search is asked for. By
    behaviour everybody is compared, so ``exact`` and ``certified`` hold of themselves. By weights each query is looked
    for in the space that holds it, and by the sketch of what it changes where none does (``unplaced``). Of a photo
    nobody is called the same person, or likely so: no line was found that holds for photos (docs/metric.md).

    Raises:
        UsageError: behaviour was asked for and cannot be had. BadLora, NotFound, ConsentDenied: as by weights.
    """
    wanted = [Query(q) if isinstance(q, str) else q for q in queries]
    common: dict[str, Any] = {"limit": limit, "space": space, "where": where, "include_blocked": include_blocked}
    common |= {"exact": exact, "certified": certified, "fast": fast}
    found = _found_by(registry, wanted, by, opener, common)
    return [_of_photo(one) if query.photo else one for query, one in zip(wanted, found, strict=True)]


def _found_by(
    registry: Registry, wanted: Sequence[Query], by: By | None, opener: Opener | None, common: dict[str, Any]
) -> list[Found]:
    if by is None:
        return _best_available(registry, wanted, opener, common)
    if by == "weights":
        return by_weights(registry, wanted, common)
    if common["fast"]:
        raise UsageError(
            reason="by behaviour everybody is compared: nothing is missed for speed", hint="leave [[fast]] out"
        )
    found = _search(registry, wanted, opener, common["limit"], common["where"], common["include_blocked"])
    return (
        [_with_weights(registry, q, f, common) for q, f in zip(wanted, found, strict=True)] if by == "both" else found
    )


def _of_photo(found: Found) -> Found:
    """The same order without the lines, which were drawn for trained LoRAs."""
    hits = [replace(hit, verdict=None if hit.verdict is None else "no", false_alarm=None) for hit in found.results]
    return replace(found, results=tuple(hits), threshold=None, false_match_rate=None, warnings=(*found.warnings, PHOTO))


def _best_available(
    registry: Registry, queries: Sequence[Query], opener: Opener | None, common: dict[str, Any]
) -> list[Found]:
    """By behaviour where it can be had; by weights where it cannot, or what is asked for is about weights."""
    about_weights = common["space"] is not None or common["fast"]
    if about_weights or not _ready(registry, queries, opener):
        return by_weights(registry, queries, common)
    try:
        return _search(registry, queries, opener, common["limit"], common["where"], common["include_blocked"])
    except (ConsentDenied, WhereError):
        raise
    except RegistryError as error:
        why = f"what it draws was not compared: {message(error)}"
        found = by_weights(registry, queries, common)
        return [replace(one, warnings=(why, *one.warnings)) for one in found]


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
    include_blocked: bool,
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
            prints = list(_answers(registry, session, prober, queries, versions))
        states = (*SERVED, VersionState.BLOCKED) if include_blocked else SERVED
        gallery = open_gallery(registry, session, asked, states)
        allowed = None if expression is None else np.asarray(matching_ids(session, expression, None, states=states))
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
            _remarked(with_copies(registry, session, version, query.path, one), query, version)
            for query, version, one in zip(queries, versions, found, strict=True)
        ]


def _remarked(found: Found, query: Query, version: Version | None) -> Found:
    if version is not None:
        return found
    return replace(found, warnings=(*found.warnings, *alpha_remarks(read_adapter(query.path).alpha_source)))


def _opened(opener: Opener | None, queries: Sequence[Query], prints: Sequence[object]) -> Prober:
    if opener is None:
        without = next(q.text for q, p in zip(queries, prints, strict=True) if p is None)
        raise UsageError(
            reason=f"{without} has no fingerprint yet, and no base model is open to take one",
            hint="say where the base model is with [[pipeline]]",
        )
    return opener()


def _answers(
    registry: Registry, session: Session, prober: Prober, queries: Sequence[Query], versions: Sequence[Version | None]
) -> list[NDArray[np.float32]]:
    """What each query draws (D,): kept of those that were asked before, else asked now, many at once."""
    found: dict[int, NDArray[np.float32]] = {}
    for n, version in enumerate(versions):
        kept = None if version is None else stored.answer_of(session, version.id, prober.base, prober.question)
        if kept is not None:
            found[n] = kept
    todo = [n for n in range(len(queries)) if n not in found]
    for start in range(0, len(todo), AT_ONCE):
        part = todo[start : start + AT_ONCE]
        adapters = [_adapter(registry, session, queries[n], versions[n]) for n in part]
        found |= zip(part, prober.of_each(adapters), strict=True)
    return [found[n] for n in range(len(queries))]


def _adapter(registry: Registry, session: Session, query: Query, version: Version | None) -> Adapter:
    if version is not None:
        return adapter_of(registry, session, version)
    from w2w_registry.diffusion.fingerprint import read_adapter

    return read_adapter(query.path)


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
    versions, identities = gallery.versions, gallery.identities
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
        "nothing was learned from repeats yet: "
        f"{'how trainings differ is presumed' if gallery.model.in_nats else 'plain cosine'}, which accepts fewer (see "
        f"`{command('calibrate')}`)",
    )  # fmt: skip
    return Found(
        query.text,
        None,
        "log likelihood ratio" if gallery.model.in_nats else "cosine",
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
        (weighed,) = by_weights(registry, [query], common | {"limit": 10_000})
    except RegistryError as error:
        return replace(found, by="both", warnings=(*found.warnings, f"weights cannot be compared: {message(error)}"))
    scores = {(h.identity, h.version): h.score for h in weighed.results}
    hits = tuple(replace(h, by="both", score_weights=scores.get((h.identity, h.version))) for h in found.results)
    return replace(found, by="both", results=hits)
