"""Make: sliders of a space's directions, what they would draw, and the ordinary operations that record it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Form, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from w2w_registry.errors import RegistryError, UsageError
from w2w_registry.services.identities import manage, paging
from w2w_registry.services.spaces import showing as spaces
from w2w_registry.services.synthesis import direction_list, edit, preview
from w2w_registry.web import asking
from w2w_registry.web.jobs import Job
from w2w_registry.web.pages.drawing import drawing, preview_of
from w2w_registry.web.problems import Problem, problem_of
from w2w_registry.web.site import Desk, Make, page_router, registered, url

router = page_router()
REACH: Final = 5.0
SHOWN: Final = 24
"""Of how many samples pictures are drawn at once."""
Name = Annotated[str, Form(max_length=300)]


@router.get("/make")
def make(
    desk: Make,
    start: Annotated[str, Query(alias="from", max_length=300)] = "",
    people: Annotated[str, Query(max_length=4000)] = "",
) -> HTMLResponse:
    """Sliders for somebody; without anybody, whom to start from, or the ``people`` to mix, one a line."""
    if not start.strip():
        return _begin(desk, {"people": people})
    with desk.one_moment():
        return _sliders(desk, start.strip(), {}, 1)


def _begin(desk: Desk, given: Mapping[str, Any], problem: Problem | None = None) -> HTMLResponse:
    """What can be made, with what was ``given`` in the fields; ``problem``: why that could not be made."""
    known = [row["space"] for row in spaces.list_spaces(desk.registry)]
    status = 200 if problem is None else problem.status
    return desk.page("make.html", status=status, ref=None, spaces=known, given=given, problem=problem)


@router.post("/make")
async def make_form(desk: Make, request: Request) -> Response:
    """The sliders' form: ``draw`` shows what it would be, ``save`` records it as an edit."""
    form = {key: str(value) for key, value in (await request.form()).items()}
    return await run_in_threadpool(_make_form, desk, form)


def _make_form(desk: Desk, form: Mapping[str, str]) -> Response:
    ref = form.get("from", "")
    amounts, seed = amounts_of(form), seed_of(form)
    if form.get("action") == "save":
        try:
            if not amounts:
                raise UsageError(reason="no slider was moved, so there is nothing to record")
            made = edit.edit(desk.registry, ref, amounts, name=form.get("name", "").strip())
        except RegistryError as error:
            return _sliders(desk, ref, amounts, seed, problem=problem_of(error))
        return RedirectResponse(_made(desk, made["ref"]), 303)
    return _sliders(desk, ref, amounts, seed, draw=True)


def _sliders(
    desk: Desk,
    ref: str,
    amounts: dict[str, float | bool],
    seed: int,
    *,
    draw: bool = False,
    problem: Problem | None = None,
) -> HTMLResponse:
    ref = registered(desk, ref)
    shown = manage.show(desk.registry, ref)
    known = direction_list.list_directions(desk.registry, shown["space"]) if shown["space"] else []
    before: Job | None = None
    after: Job | None = None
    found: preview.Prospect | None = None
    try:
        if problem is None:  # a refusal is logged: to look at what was refused, or mistyped, is none of its own
            found = preview.prospect(desk.registry, ref, amounts)
            before = drawing(desk, ref, {}, (seed,), "before")
            after = drawing(desk, ref, amounts, (seed,), "after") if draw and amounts else None
    except RegistryError as error:
        problem = problem_of(error)
    return desk.page(
        "make.html",
        status=200 if problem is None else problem.status,
        ref=ref,
        shown=shown,
        card=paging.cards_of(desk.registry, [ref]).get(ref, {}),
        directions=known,
        amounts=amounts,
        seed=seed,
        reach=REACH,
        found=found,
        before=before,
        after=after,
        problem=problem,
    )


@router.post("/make/pictures")
async def ask(desk: Make, request: Request) -> JSONResponse:
    """A picture of the sliders as they stand: where it will be, and what is known of the point already."""
    form = {key: str(value) for key, value in (await request.form()).items()}

    def run() -> dict[str, Any]:
        with desk.one_moment():
            ref, amounts = registered(desk, form.get("from", "")), amounts_of(form)
            found = preview.prospect(desk.registry, ref, amounts)
        job = drawing(desk, ref, amounts, (seed_of(form),), "after")
        return {"job": job.id, "state": job.state, "prospect": found.to_json()}

    try:
        return JSONResponse(await run_in_threadpool(run))
    except RegistryError as error:
        refused = problem_of(error)
        return JSONResponse({"detail": refused.detail, "code": refused.code}, refused.status)


@router.post("/mixes")
def mix(desk: Make, people: Annotated[str, Form(max_length=4000)], name: Name, weights: Name = "") -> Response:
    """Mix identities, one a line or with commas between."""
    refs = [one.strip() for one in people.replace(",", "\n").split("\n") if one.strip()]
    try:
        shares = edit.mixing_weights(len(refs), _numbers(weights))
        made = edit.mix(desk.registry, refs, shares, name=name.strip())
    except RegistryError as error:
        return _begin(desk, {"people": people, "weights": weights, "mix": name}, problem_of(error))
    return RedirectResponse(_made(desk, made["ref"]), 303)


@router.post("/samples")
def sample(
    desk: Make,
    space: Name,
    count: Annotated[int, Form(ge=1, le=200)] = 8,
    name: Name = "sample",
    seed: Annotated[int, Form(ge=0, le=2**31)] = 0,
) -> Response:
    """New people of a space."""
    try:
        made = edit.sample(desk.registry, count, space=space, name=name.strip(), seed=seed)
    except RegistryError as error:
        given = {"space": space, "count": count, "sample": name, "seed": seed}
        return _begin(desk, given, problem_of(error))
    if asking.opener_of(desk) is not None:
        for one in made["samples"][:SHOWN]:
            preview_of(desk, f"{one['identity']}@1")
    first = made["samples"][0]["identity"].rpartition("-")[0]
    where = f"operation = sample and name like '{first}-%'"
    return RedirectResponse(url("/", where=where, sort="-created", done=len(made["samples"]), did="sampled"), 303)


def _numbers(text: str) -> list[float]:
    """Weights as they are typed.

    Raises:
        UsageError: one that is no number.
    """
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UsageError(reason="weights are numbers, as in 2 1 1") from None


def _made(desk: Desk, ref: str) -> str:
    """Where a new version is shown; its picture is drawn meanwhile, where the gallery was told of a base model."""
    job = None if asking.opener_of(desk) is None else preview_of(desk, ref)
    return url("/identities", ref, sheet=None if job is None else job.id, did="made")


def amounts_of(form: Mapping[str, str]) -> dict[str, float | bool]:
    """Sliders that were moved: fields ``d.NAME`` with an amount other than zero.

    Raises:
        UsageError: an amount that is no number.
    """
    found: dict[str, float | bool] = {}
    for key, value in form.items():
        if key.startswith("d.") and value.strip():
            try:
                amount = float(value)
            except ValueError:
                raise UsageError(reason=f"{value[:30]!r} is no amount") from None
            if not abs(amount) <= 10:
                raise UsageError(reason="a slider goes to ten units at most")
            if abs(amount) > 1e-9:
                found[key[2:]] = round(amount, 4)
    return found


def seed_of(form: Mapping[str, str]) -> int:
    """The seed asked for; 1 when none was.

    Raises:
        UsageError.
    """
    text = form.get("seed", "1").strip() or "1"
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise UsageError(reason="a seed is a whole number")
    return int(text)
