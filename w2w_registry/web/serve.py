"""Running the gallery: the socket first, so that the address printed is the one that answers."""

from __future__ import annotations

import ctypes
import gc
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from w2w_registry.errors import Conflict, RegistryError, SettingError
from w2w_registry.services.recording import gallery
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis.engine import WarmEngine
from w2w_registry.web import workers
from w2w_registry.web.access import Access, check_token, new_token, proxy_of
from w2w_registry.web.app import create_app
from w2w_registry.web.connection import Connection
from w2w_registry.web.kept import LAG
from w2w_registry.web.limits import Limits
from w2w_registry.web.oidc import oidc_of
from w2w_registry.web.site import Site
from w2w_registry.web.webhooks import Teller, webhooks_of

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
CONNECTIONS: Final = 512
CACHE_KIB: Final = 4096
_M_ARENA_MAX: Final = -8
"""As glibc's malloc.h has it; other systems' libraries do not know the function or the number."""


@dataclass(frozen=True)
class Serving:
    """What ``w2w-reg serve`` was asked. ``hosts``: further names it is reached by, with or without a port.
    ``pipeline``: the base model's folder or Hub id, for pictures. ``workers``: processes that show pages; None = one a
    core, four at most."""

    host: str = "127.0.0.1"
    port: int = 8765
    read_only: bool = False
    token: str | None = None
    hosts: Sequence[str] = ()
    pipeline: str | None = None
    workers: int | None = 1


@dataclass(frozen=True, eq=False)
class Prepared:
    """A gallery about to run: its socket is bound, ``url`` is the address that lets people in; ``make`` makes the
    application, in whichever process."""

    registry: Registry
    make: Callable[..., FastAPI]
    limits: Limits
    listener: socket.socket
    url: str
    teller: Teller
    workers: int
    model: bool


def prepare(registry: Registry, asked: Serving) -> Prepared:
    """Check the registry and the settings, bind the socket, make the application.

    Raises:
        NotInitialised, SchemaOutOfDate, DatabaseError: the registry cannot be served. SettingError: ``[web]`` or the
        token cannot be used. Conflict: the address is taken or not this machine's.
    """
    registry.catalog.bound_cache(CACHE_KIB)
    with registry.catalog.read():
        pass
    options = registry.settings.web
    token = check_token(asked.token or new_token())
    proxy = proxy_of(options)
    people = oidc_of(options, registry.settings.home)
    teller = Teller(registry, webhooks_of(options, registry.settings.home))
    listener = _bind(asked.host, asked.port)
    port = int(listener.getsockname()[1])
    access = Access(
        token=token,
        actor=registry.actor,
        cookie=f"w2w_gallery_{port}",
        read_only=asked.read_only or bool(options.get("read_only", False)),
        proxy=proxy,
        people=people,
    )
    hosts = allowed_hosts(asked.host, port, [*asked.hosts, *options.get("hosts", ())])
    limits = _limits(options)
    make = partial(create_app, registry, access, hosts, limits=limits, engine=WarmEngine(asked.pipeline), lag=LAG)
    shown = "127.0.0.1" if asked.host in ("0.0.0.0", "::") else asked.host
    shown = f"[{shown}]" if ":" in shown else shown
    url = f"http://{shown}:{port}/" if access.named else f"http://{shown}:{port}/?token={token}"
    count = workers.usual() if asked.workers is None else asked.workers
    if count > 1 and not workers.possible():
        listener.close()
        raise SettingError(setting="[[workers]]", value=count, reason="this system runs the gallery in one process")
    return Prepared(registry, make, limits, listener, url, teller, count, asked.pipeline is not None)


def run(prepared: Prepared) -> None:
    """Serve until interrupted."""
    if prepared.workers == 1:
        _whole(prepared, prepared.make(), prepared.listener)
    else:
        _several(prepared)


def _several(prepared: Prepared) -> None:
    """Serve by ``workers`` processes that show and one that makes."""
    changes, buckets = workers.SharedChanges(), workers.SharedBuckets(prepared.limits)
    secret = workers.new_secret()
    prepared.registry.catalog.close()  # no connection is carried into another process
    # Not in the home folder: a home that cannot be written can be shown, and a socket's path may not be long.
    with tempfile.TemporaryDirectory(prefix="w2w-") as folder, socket.socket(socket.AF_UNIX) as inner:
        path = Path(folder) / "maker"
        inner.bind(str(path))
        inner.listen(128)

        def work(number: int) -> None:
            if number == 0:
                app = prepared.make(changes=changes)
                _whole(prepared, app, inner, front=workers.FromWorkers(app, secret=secret))
                return
            elsewhere = partial(workers.Elsewhere, path=path, secret=secret, model=prepared.model)
            _serve(prepared.make(changes=changes, buckets=buckets, elsewhere=elsewhere), prepared.listener)

        workers.Family(1 + prepared.workers, work).run()


def _whole(prepared: Prepared, app: FastAPI, listener: socket.socket, front: ASGIApp | None = None) -> None:
    """Serve ``app`` with what only one process of a gallery does: telling webhooks, opening the base model."""
    prepared.teller.start()
    threading.Thread(target=_warm, args=(app.state.site,), name="w2w-warm", daemon=True).start()
    try:
        _serve(front or app, listener)
    finally:
        prepared.teller.stop()


def _serve(app: ASGIApp, listener: socket.socket) -> None:
    """No access log (addresses may hold a token), and no header trusted from anybody."""
    _collect_less()
    _few_arenas()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32 * 1024,
        ws="none",
        http=Connection,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _collect_less() -> None:
    """What was loaded to serve at all stays: looking through it again and again for garbage took up to a third of a
    page's time. What pages leave behind is still collected, in larger lots."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _few_arenas() -> None:
    """Two heaps for all threads (glibc makes eight a core): each keeps what its largest pages took, so that a process
    went on growing until every thread had made one of each."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _warm(site: Site) -> None:
    """Have everybody ready to be compared and the base model that was named open, so that the first who asks does not
    wait for it; whoever asks is told what is wrong, if anything is."""
    with suppress(RegistryError):
        gallery.keep_ready(site.registry)
    if site.engine.pipeline is None:
        return
    with suppress(RegistryError), site.engine.lock:
        site.engine.prober(site.registry)


def allowed_hosts(host: str, port: int, more: Sequence[str]) -> frozenset[str]:
    """Every value ``Host`` may have: the address listened on, this machine's own names, and those given."""
    names = {host.lower() if ":" not in host else f"[{host.lower()}]", *LOOPBACK} - {"0.0.0.0", "[::]"}
    found = {f"{name}:{port}" for name in names}
    if port == 80:
        found |= names
    for name in more:
        text = str(name).strip().lower()
        found |= {text} if _has_port(text) else {text, f"{text}:{port}"}
    return frozenset(found)


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdigit() and not host.endswith("]")


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = f"cannot listen there ({error.strerror or error}); another [[port]], or 0 for a free one"
        raise Conflict(what="address", name=f"{host}:{port}", reason=reason) from None
    listener.listen(128)
    return listener


def _limits(options: Mapping[str, Any]) -> Limits:
    default = Limits()
    most = options.get("max_upload_mb", default.upload_bytes >> 20)
    if not isinstance(most, int) or not 1 <= most <= 1 << 20:
        raise SettingError(setting="[web] max_upload_mb", value=most, reason="a whole number of megabytes")
    return Limits(upload_bytes=most << 20)
