"""The compliance desk: whose consent, until when, what is published without it, who did what, does the log hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Form, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from w2w_registry.records import VersionState
from w2w_registry.services.audit import log, naming, queries
from w2w_registry.services.consent import receipts as issuing
from w2w_registry.services.consent import resolve, subjects, withdraw
from w2w_registry.services.consent.scopes import parse_day
from w2w_registry.services.identities import paging
from w2w_registry.web.pages.files import picture_of
from w2w_registry.web.site import Audit, Desk, Steward, page_router, registered, url

router = page_router()
EVENTS: Final = 100
SUBJECTS: Final = 100
NAMED: Final = 4
QUESTIONS: Final = ("held", "unconsented", "expiring", "withdrawals", "unexplained")
DAYS: Final = (30, 90, 365)
SHOWN: Final = 20


@router.get("/compliance")
def desk(desk: Audit, days: int = 90, after: Annotated[str, Query(max_length=300)] = "") -> HTMLResponse:
    """What needs somebody's attention, and everybody who consented, a hundred at a time: those after ``after``."""
    return _desk(desk, days, after)


def _desk(desk: Desk, days: int, after: str = "", verdict: dict[str, Any] | None = None) -> HTMLResponse:
    days = min(max(days, 1), 36_500)
    filters = queries.Filters(days=days)
    with desk.one_moment():
        answers = [
            (name, queries.QUESTIONS[name], queries.ask(desk.registry, name, filters.only(name))) for name in QUESTIONS
        ]
        people = subjects.list_subjects(desk.registry, after=after or None, limit=SUBJECTS + 1)
        faces = _faces(desk, {name: rows for name, _, rows in answers}["held"][:SHOWN])
    more = len(people) > SUBJECTS
    people = people[:SUBJECTS]
    return desk.page(
        "compliance.html",
        answers=answers,
        days=days,
        choices=DAYS,
        subjects=people,
        after=after,
        more=url("/compliance", days=days, after=people[-1].subject) if more else None,
        verdict=verdict,
        shown=SHOWN,
        faces=faces,
    )


def _faces(desk: Desk, held: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The cards of versions that this person may decide about, and of whom each resembles."""
    if not desk.may("steward"):
        return {}
    pairs = [(row["version"], row["like"]) for row in held if row["like"] and row["added_by"] != desk.who.actor]
    cards = paging.cards_of(desk.registry, [ref for pair in pairs for ref in pair], held=True)
    return {
        ref: {**card, "identity": ref.rpartition("@")[0], "version": ref.rpartition("@")[2], "kind": "person"}
        for ref, card in cards.items()
    }


@router.post("/compliance/verify")
def verify(desk: Audit, days: Annotated[int, Form()] = 90) -> HTMLResponse:
    """Check the whole log and every audited row against it."""
    return _desk(desk, days, verdict=log.verify(desk.registry).to_json())


@router.post("/compliance/held")
def decide(
    desk: Steward,
    version: Annotated[str, Form(max_length=300)],
    decision: Annotated[str, Form(max_length=20)],
    reason: Annotated[str, Form(max_length=2000)] = "",
    same_as: Annotated[str, Form(max_length=300)] = "",
) -> RedirectResponse:
    """Say whom a held version depicts; another person than the one who added it has to."""
    ref = registered(desk, version)
    other = same_as.strip() if decision == resolve.SAME else None
    resolve.resolve(desk.registry, ref, same_as=other, distinct=decision == resolve.DISTINCT, reason=reason)
    return RedirectResponse(url("/identities", ref, did="decided"), 303)


@router.get("/compliance/held/{name:path}")
async def held_picture(desk: Steward, request: Request, name: str) -> Response:
    """The picture of a version that is held, for whoever decides whom it depicts."""
    return await picture_of(desk, request, name, VersionState.HELD)


@router.get("/compliance/events")
def events(
    desk: Audit, actor: str = "", action: str = "", since: str = "", until: str = "", below: int | None = None
) -> HTMLResponse:
    """Who did what, newest first, a hundred at a time."""
    with desk.one_moment():
        found = log.events_list(
            desk.registry,
            actor=actor.strip() or None,
            action=action.strip() or None,
            since=parse_day(since or None, end=False),
            before=parse_day(until or None, end=True),
            until=None if below is None else below - 1,
            limit=EVENTS + 1,
            newest_first=True,
        )
        names = naming.names_in(desk.registry, found[:EVENTS])
    asked = {"actor": actor or None, "action": action or None, "since": since or None, "until": until or None}
    more = len(found) > EVENTS
    found = found[:EVENTS]
    older = url("/compliance/events", below=found[-1]["seq"], **asked) if more else None
    newest = None if below is None else url("/compliance/events", **asked)
    about = [_about(one, names) for one in found]
    return desk.page("events.html", events=found, about=about, older=older, newest=newest, asked=asked)


def _about(event: log.EventRow, names: naming.Names) -> list[tuple[str, list[tuple[str, bool]], int]]:
    """What an event is about, by kind: the first few by name (and whether that is a page here), and how many more."""
    found = []
    for kind, ids in event.objects.items():
        these = naming.numbers(ids)
        if not these:
            continue
        shown = [(names.get((kind, i)), i) for i in these[:NAMED]]
        found.append((kind, [(name or str(i), name is not None) for name, i in shown], len(these) - len(shown)))
    return found


@router.get("/compliance/subjects/{subject:path}")
def subject(desk: Audit, subject: str) -> HTMLResponse:
    """One subject: records, versions, withdrawals, and everything that happened."""
    with desk.one_moment():
        shown = subjects.show_subject(desk.registry, subject)
        report = queries.ask(desk.registry, "subject", queries.Filters(subject=subject))
    return desk.page("subject.html", shown=shown, report=report)


@router.post("/compliance/receipts/{subject:path}")
def receipts(desk: Steward, subject: str) -> Response:
    """Receipts of a subject's records, as text; that they were issued is noted in the log."""
    made = issuing.receipt(desk.registry, subject)
    text = "\n\n---\n\n".join(one["markdown"] for one in made)
    headers = {"content-disposition": f"attachment; filename*=UTF-8''receipts-{quote(subject, safe='')}.md"}
    return PlainTextResponse(text, headers=headers)


@router.get("/compliance/withdrawals/{subject:path}")
def plan(desk: Steward, subject: str, erase: bool = False, forget: bool = False) -> HTMLResponse:
    """What a withdrawal would do; nothing is changed."""
    planned = withdraw.plan_withdrawal(desk.registry, subject, erase=erase, protect=not forget).to_json()
    return desk.page("withdrawal.html", plan=planned, receipt=None)


@router.post("/compliance/withdrawals/{subject:path}")
def perform(
    desk: Steward,
    subject: str,
    confirm: Annotated[str, Form(max_length=300)],
    erase: Annotated[bool, Form()] = False,
    forget: Annotated[bool, Form()] = False,
) -> HTMLResponse:
    """Withdraw; the subject's id is typed again to say that it is meant."""
    if confirm.strip() != subject:
        planned = withdraw.plan_withdrawal(desk.registry, subject, erase=erase, protect=not forget).to_json()
        return desk.page("withdrawal.html", status=400, plan=planned, receipt=None, slip=True)
    receipt = withdraw.withdraw(desk.registry, subject, erase=erase, protect=not forget)
    return desk.page("withdrawal.html", plan=None, receipt=receipt)
