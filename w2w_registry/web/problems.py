"""What went wrong, for people and programs: a page or RFC 9457 problem+json. Never a token, a path or a trace."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from w2w_registry import errors as e
from w2w_registry.messages import message

STATUS: Final[tuple[tuple[type[e.RegistryError], int], ...]] = (
    (e.UsageError, 400),
    (e.NotInitialised, 503),
    (e.NotFound, 404),
    (e.ConsentDenied, 403),
    (e.LikenessRefused, 403),
    (e.SecondPersonNeeded, 403),
    (e.BadFile, 422),
    (e.IntegrityError, 500),
    (e.Conflict, 409),
    (e.Busy, 503),
    (e.SchemaOutOfDate, 503),
    (e.MissingExtra, 501),
    (e.DeviceError, 503),
    (e.SettingError, 500),
    (e.StorageError, 500),
    (e.Unmarked, 503),
    (e.DatabaseError, 503),
    (e.HubError, 502),
    (e.SigningError, 502),
)
_OURS: Final = {
    e.StorageError: "a file could not be read or written on the server",
    e.DatabaseError: "the catalog's database cannot be reached, or does not allow this; the server's log says what",
    e.NotInitialised: "there is no registry here yet; run `w2w-reg init` on the server",
    e.SettingError: "a setting of the server cannot be used; `w2w-reg` on the server says which",
}
_PLACES: Final = {
    "identity": "/identities",
    "version": "/identities",
    "alias": "/identities",
    "space": "/spaces",
}
_ANYWHERE = re.compile(r"(?<![\w.])(?:~|\.{1,2})?/(?:[^\s/'\":;,]+/)+[^\s'\":;,]*|[A-Za-z]:\\[^\s'\":;,]+")


class Problem(Exception):
    """A refusal of the web's own. ``detail``: one plain line. ``near``: pages that may have been meant."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        near: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.near = status, code, detail, near
        self.headers = dict(headers or {})


class Unreadable(HTTPException):
    """A body that cannot be read, and why, in a sentence that may be shown."""

    def __init__(self, reason: str) -> None:
        super().__init__(400, reason)


_OPTIONS: Final = {"where": "the filter", "name": "a name of its own", "pipeline": "`w2w-reg serve --pipeline`"}


def _spelt(option: str) -> str:
    """What an option of a request is here; one that no page has is spelt as where it is typed."""
    return _OPTIONS.get(option, f"--{option}")


def problem_of(error: e.RegistryError) -> Problem:
    """A registry's error as the web says it: the command line's sentence, without the server's own places."""
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    for kind, text in _OURS.items():
        if isinstance(error, kind):
            return Problem(status, error.code, text)
    fields = dict(error.fields)
    if isinstance(fields.get("path"), (str, PurePath)):
        fields["path"] = PurePath(str(fields["path"])).name
    shown = type(error)(**fields)
    place = _PLACES.get(str(fields.get("what")))
    near = tuple((place, str(name)) for name in fields.get("near") or ()) if place else ()
    return Problem(status, error.code, _ANYWHERE.sub("…", message(shown, _spelt)), near=near)


def problem_from(error: Exception) -> Problem:
    """What the web says of an error; one that nobody foresaw is raised again."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, e.RegistryError):
        return problem_of(error)
    if isinstance(error, RequestValidationError):
        first: Any = error.errors()[0] if error.errors() else {}
        where = " ".join(str(part) for part in first.get("loc", ())[1:])
        return Problem(400, "request", f"{where[:80]}: {first.get('msg', 'cannot be read')}".strip(": "))
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return Problem(404, "not-found", "there is nothing at this address")
        if error.status_code == 405:
            return Problem(405, "method", "this address does not take that method", dict(error.headers or {}))
        ours = isinstance(error, Unreadable)
        return Problem(error.status_code, "request", error.detail if ours else "the request cannot be read")
    raise error


def api_refusal(problem: Problem) -> JSONResponse:
    """The refusal as the API answers it."""
    return JSONResponse(
        body_of(problem), problem.status, headers=problem.headers, media_type="application/problem+json"
    )


def body_of(problem: Problem) -> dict[str, Any]:
    """RFC 9457 members; ``code`` is the machine's name of the error, as in the command line's ``--json``."""
    return {
        "type": "about:blank",
        "title": TITLES.get(problem.status, "Error"),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
    }


def respond(problem: Problem, *, api: bool) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a refusal that comes before any page could be made."""
    if api:
        content, kind = json.dumps(body_of(problem), ensure_ascii=False).encode(), "application/problem+json"
    else:
        title = html.escape(TITLES.get(problem.status, "Error"))
        content = (
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{title}</title><main><h1>{title}</h1><p>{html.escape(problem.detail)}.</p></main></html>\n"
        ).encode()
        kind = "text/html; charset=utf-8"
    return problem.status, {**problem.headers, "content-type": kind, "content-length": str(len(content))}, content


TITLES: Final = {
    400: "That cannot be answered",
    401: "Who is asking?",
    403: "Not allowed",
    404: "Not found",
    405: "Not that way",
    408: "Too slow",
    409: "In the way",
    413: "Too large",
    414: "Too long",
    415: "Another kind of content is expected",
    421: "Not this server",
    422: "A file that cannot be used",
    429: "Too many requests",
    431: "Too long",
    500: "Something went wrong",
    501: "Not installed",
    502: "Another service failed",
    503: "Not available now",
}
