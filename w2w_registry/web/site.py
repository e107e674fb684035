"""What every route shares (registry, templates, static files, recent counts), and the desk of one request."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

from anyio import CapacityLimiter
from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request

from w2w_registry.commands import command
from w2w_registry.records import IdentityRef
from w2w_registry.services.identities import manage
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis.engine import WarmEngine
from w2w_registry.version import __version__
from w2w_registry.web import filters
from w2w_registry.web.access import READING, RIGHTS, Access, Principal, Right, Role
from w2w_registry.web.guard import matches
from w2w_registry.web.jobs import Queue
from w2w_registry.web.kept import keepable, standin
from w2w_registry.web.problems import Problem

HERE: Final = Path(__file__).parent
KINDS: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
FOR_EVER: Final = "private, max-age=31536000, immutable"
A_WHILE: Final = "private, max-age=600"
"""How long a browser shows a picture without asking: whoever withdraws is not to be seen for a year in what others
looked at."""
MARKING: Final = 4
"""Pictures that are marked at once. Each waits for the catalog's writer, and must not keep a thread from the pages."""
MAX_FIELDS: Final = 1000
MAX_FILES: Final = 8
Value = TypeVar("Value")


@dataclass(frozen=True)
class Static:
    """One file that ships with the package; ``tag`` is the beginning of its digest."""

    data: bytes
    kind: str
    tag: str


class Remembered:
    """What was worked out from the catalog, kept while the catalog's change number stays.

    Afterwards it is worked out again: at once when that was quick, else beside the answer, which then still shows what
    was known, and no sooner than ``rarely`` times what it took. However many different things are looked at, they take
    turns in one thread, which rests ``rarely`` times as long as it worked, though never longer than ``longest``: next
    to somebody who adds thousands, counts lag by seconds, and take one part in ``rarely`` of a core all together. What
    is not known yet one thread works out, and the others wait.
    """

    def __init__(
        self,
        most: int = 256,
        quick: float = 0.05,
        rarely: float = 20.0,
        longest: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        rest: Callable[[float], object] = time.sleep,
    ) -> None:
        self._most, self._quick, self._rarely, self._longest = most, quick, rarely, longest
        self._clock, self._rest = clock, rest
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._outdated: OrderedDict[Hashable, tuple[int, Callable[[], Any]]] = OrderedDict()
        self._refreshing = False
        self._lock = threading.Lock()

    def get(self, key: Hashable, seq: int, make: Callable[[], Value]) -> Value:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                value: Value = found.value
                if found.seq == seq:
                    return value
                if found.took > self._quick:
                    if self._clock() - found.at >= self._rarely * found.took:
                        self._outdated[key] = seq, make  # keeps its place in the row
                        if not self._refreshing:
                            self._refreshing = True
                            threading.Thread(target=self._refresh, daemon=True).start()
                    return value
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                found = self._kept.get(key)
                if found is not None and found.seq >= seq:  # by whoever was at it already
                    known: Value = found.value
                    return known
            return self._make(key, seq, make)

    def soon(self, key: Hashable, seq: int, make: Callable[[], Value]) -> Value | None:
        """The same of what takes long: None while it is worked out for the first time, beside the answers."""
        with self._lock:
            known = key in self._kept
            begun = key in self._making
            if not known and not begun:
                self._making[key] = threading.Lock()
        if known:
            return self.get(key, seq, make)
        if not begun:
            threading.Thread(target=self._make, args=(key, seq, make), daemon=True).start()
        return None

    def current(self, key: Hashable, seq: int) -> bool:
        """Whether what is kept is of the catalog's state ``seq``."""
        with self._lock:
            found = self._kept.get(key)
            return found is not None and found.seq == seq

    def _refresh(self) -> None:
        """Work out one after another what is outdated and was asked for, until nothing is."""
        while True:
            with self._lock:
                if not self._outdated:
                    self._refreshing = False
                    return
                key, (seq, make) = self._outdated.popitem(last=False)
            start = time.thread_time()
            with suppress(Exception):  # it is forgotten then, and whoever asks next meets what is wrong
                self._make(key, seq, make)
            self._rest(min(self._rarely * (time.thread_time() - start), self._longest))

    def _make(self, key: Hashable, seq: int, make: Callable[[], Value]) -> Value:
        start = time.thread_time()
        try:
            value = make()
        except BaseException:
            with self._lock:
                self._kept.pop(key, None)
                self._making.pop(key, None)
            raise
        with self._lock:
            self._making.pop(key, None)
            self._kept[key] = _Kept(seq, time.thread_time() - start, value, self._clock())
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value


@dataclass
class _Kept:
    """``took``: seconds of work; ``at``: when it was done."""

    seq: int
    took: float
    value: Any
    at: float


@dataclass(frozen=True, eq=False)
class Site:
    """The gallery of one registry."""

    registry: Registry
    access: Access
    statics: Mapping[str, Static] = field(default_factory=lambda: load_statics(HERE / "static"))
    remembered: Remembered = field(default_factory=Remembered)
    engine: WarmEngine = field(default_factory=WarmEngine)
    jobs: Queue = field(default_factory=Queue)
    environment: Environment = field(default_factory=lambda: make_environment(HERE / "templates"))
    marking: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MARKING))

    def static_url(self, name: str) -> str:
        return f"/static/{name}?v={self.statics[name].tag}"


@dataclass(frozen=True, eq=False)
class Desk:
    """One request: who asks, and the registry acting in that name."""

    request: Request
    site: Site
    who: Principal

    @property
    def registry(self) -> Registry:
        registry = self.site.registry
        return replace(registry, settings=replace(registry.settings, actor=self.who.actor))

    def one_moment(self) -> AbstractContextManager[None]:
        """What is read in the block is of one state of the catalog, opened once; nothing is changed in it."""
        return self.site.registry.catalog.snapshot()

    def may(self, right: str) -> bool:
        return Right(right) in self.who.rights

    def has(self, place: str) -> bool:
        """Whether the gallery has such a page."""
        return any(getattr(route, "path", None) == place for route in self.request.app.routes)

    def page(self, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """A page made of a template; everything in it is escaped."""
        return HTMLResponse(self._rendered(template, self.who, context), status)

    def kept_page(self, template: str, *, current: bool = True, **context: Any) -> HTMLResponse:
        """A page that may be given again to whoever may do the same; ``current``: whether all of it is of now."""
        if self.request.method != "GET":
            return self.page(template, **context)
        text = self._rendered(template, standin(self.who), context)
        return keepable(HTMLResponse(text), lagging=True, current=current)

    def _rendered(self, template: str, who: Principal, context: dict[str, Any]) -> str:
        return self.site.environment.get_template(template).render(
            desk=self, who=who, path=self.request.url.path, static=self.site.static_url, **context
        )


RIGHT_OF: Final[dict[Any, Right]] = {}
"""The dependencies that let somebody in, and the right each asks for: a test finds one of them on every route."""


def _needs(right: Right) -> Callable[[Request], Awaitable[Desk]]:
    async def desk(request: Request) -> Desk:
        return let_in(request, right)

    RIGHT_OF[desk] = right
    return desk


def let_in(request: Request, right: Right) -> Desk:
    """The desk of somebody who has ``right`` now.

    Raises:
        Problem: they have not.
    """
    found = desk_of(request)
    if right not in found.who.rights:
        raise not_theirs(found, right)
    return found


Look = Annotated[Desk, Depends(_needs(Right.LOOK))]
Make = Annotated[Desk, Depends(_needs(Right.MAKE))]
Steward = Annotated[Desk, Depends(_needs(Right.STEWARD))]
Audit = Annotated[Desk, Depends(_needs(Right.AUDIT))]


def not_theirs(desk: Desk, right: Right) -> Problem:
    """Why somebody who has not ``right`` may not do what takes it, and whom to ask."""
    if desk.site.access.read_only and right not in READING:
        return Problem(403, "role", "this gallery is read-only")
    may = " or ".join(with_article(role) for role in Role if right in RIGHTS[role])
    return Problem(403, "role", f"{with_article(desk.who.role)} may not do that; ask {may}")


def with_article(role: Role) -> str:
    """A role as somebody who has it: "a viewer", "an auditor"."""
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"


def desk_of(request: Request) -> Desk:
    """The desk of a request that the guard let in."""
    return Desk(request, request.app.state.site, request.state.principal)


async def own_form(request: Request) -> None:
    """Before every form of a page: bounded in parts, and with this session's CSRF token when a browser sent it.

    Raises:
        Problem.
    """
    if request.method != "POST":
        return
    form = await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS)
    who: Principal = request.state.principal
    if who.ambient and not matches(form.get("csrf"), who):
        raise Problem(403, "csrf", "the form was not made by this session; go back, load the page again and resend it")


def page_router() -> APIRouter:
    """A router for pages: forms are checked, and the API's document does not list them."""
    return APIRouter(dependencies=[Depends(own_form)], include_in_schema=False)


def load_statics(folder: Path) -> dict[str, Static]:
    """Every static file by name, read once: what is served is a look-up here, never a path."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in KINDS:
            data = path.read_bytes()
            found[path.name] = Static(data, KINDS[path.suffix], hashlib.sha256(data).hexdigest()[:16])
    return found


def make_environment(folder: Path) -> Environment:
    """Templates that escape everything and fail on a name they were not given."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=filters.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(filters.FILTERS)
    environment.globals.update(version=__version__, url=url, typed=command)
    return environment


def url(place: str, name: str = "", /, **query: Any) -> str:
    """An address in the gallery: ``url("/identities", "acme/alice", version=3)``; None leaves a parameter out."""
    from urllib.parse import urlencode

    path = f"{place.rstrip('/')}/{quote(name, safe='/@')}" if name else place
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def picture_response(data: bytes, digest: str, request: Request, *, kind: str = "image/png") -> Response:
    """A picture under an address that names its digest: kept for a while by the browser of whoever may see it, then
    asked for again, which costs no picture while it is the same."""
    tag = f'"{digest}"'
    headers = {"cache-control": A_WHILE, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return keepable(Response(data, headers=headers, media_type=kind), lagging=True)


def registered(desk: Desk, query: str) -> str:
    """``query`` as ``name@number`` of a version that is there: a name from the network is never a path.

    Raises:
        BadName, NotFound.
    """
    shown = manage.show(desk.registry, str(IdentityRef.parse(query)))
    return f"{shown['identity']}@{shown['version']}"
