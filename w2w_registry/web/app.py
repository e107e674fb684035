"""The application: routes behind the guard, errors as problems or pages."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from anyio import to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from w2w_registry.errors import RegistryError
from w2w_registry.services.recording.answered import AnswerFolder
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis.engine import WarmEngine
from w2w_registry.version import __version__
from w2w_registry.web import api, pages
from w2w_registry.web.access import Access
from w2w_registry.web.guard import API, Guard
from w2w_registry.web.idempotency import KEPT_FOR, Answers
from w2w_registry.web.kept import Changes, KeptAnswers
from w2w_registry.web.limits import Buckets, Limits
from w2w_registry.web.problems import TITLES, Problem, api_refusal, problem_from
from w2w_registry.web.site import Remembered, Site, desk_of

OPENAPI: Final = "/api/v1/openapi.json"
THREADS: Final = 8
_LOG = logging.getLogger("w2w_registry.web")


def create_app(
    registry: Registry,
    access: Access,
    hosts: frozenset[str],
    *,
    limits: Limits | None = None,
    engine: WarmEngine | None = None,
    lag: float = 0.0,
    changes: Changes | None = None,
    buckets: Buckets | None = None,
    elsewhere: Callable[[ASGIApp], ASGIApp] | None = None,
) -> FastAPI:
    """The gallery of ``registry`` as an ASGI application.

    Args:
        hosts: every value the ``Host`` header may have, port included.
        engine: how pictures are drawn; None = with the space's own base model.
        lag: how many seconds old a page may be beside somebody who changes the registry by other ways.
        changes, buckets: count what is changed through this gallery, and each caller's requests; None = those of this
            process alone.
        elsewhere: hands on to another process what is not done in this one.
    """
    app = FastAPI(
        title="w2w-registry",
        version=__version__,
        description="The registry's services over HTTP. Keys are those of the command line's `--json`.",
        openapi_url=OPENAPI,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,  # a key that is only there sometimes is then said to be so
        lifespan=_few_threads,
    )
    remembered = Remembered()
    registry = replace(registry, later=remembered.soon)
    app.state.site = Site(registry, access, remembered=remembered, engine=engine or WarmEngine())
    app.state.shows_only = elsewhere is not None
    app.state.limits = limits = limits or Limits()
    app.state.answers = Answers(AnswerFolder(registry, KEPT_FOR))
    # Side by side in one list, so that a walk over ``app.routes`` meets every one.
    app.router.routes.extend([*api.router.routes, *pages.ROUTES])
    for kind in (RegistryError, Problem, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refused)
    if elsewhere is not None:
        app.add_middleware(elsewhere)
    app.add_middleware(KeptAnswers, last_change=_asker(registry), changes=changes or Changes(), lag=lag)
    app.add_middleware(Guard, access=access, hosts=hosts, limits=limits, buckets=buckets)
    return app


def _asker(registry: Registry) -> Callable[[], Awaitable[int]]:
    """Asks the catalog for its last change: a file at once, a server from a thread."""
    catalog = registry.catalog

    async def ask() -> int:
        if catalog.is_file:
            return catalog.last_change()
        return await to_thread.run_sync(catalog.last_change)

    return ask


@asynccontextmanager
async def _few_threads(_app: FastAPI) -> AsyncIterator[None]:
    """Answers are made by a few threads, the others wait their turn: forty that fight for one interpreter's lock make
    everybody late, and each holds a connection and a page in memory."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


async def _refused(request: Request, error: Exception) -> Response:
    problem = problem_from(error)
    if problem.status >= 500:
        _LOG.warning("%s", error)
    if request.url.path.startswith(API):
        return api_refusal(problem)
    desk = desk_of(request)
    page = desk.page(
        "problem.html", status=problem.status, problem=problem, title=TITLES.get(problem.status, "Something went wrong")
    )
    page.headers.update(problem.headers)
    return page
