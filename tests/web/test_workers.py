"""Several processes for one gallery: who does what, what they share, and that none is left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.web.conftest import HOST, ORIGIN, TOKEN, NoModel
from tests.web.routes import own_routes, paths
from w2w_registry.services.audit import log
from w2w_registry.services.registry import Registry
from w2w_registry.web import workers
from w2w_registry.web.access import Access
from w2w_registry.web.app import THREADS, create_app
from w2w_registry.web.limits import Limits, OwnBuckets
from w2w_registry.web.site import MARKING

pytestmark = pytest.mark.skipif(not workers.possible(), reason="this system cannot fork")
BEARER = {"authorization": f"Bearer {TOKEN}"}


@contextmanager
def served(home: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    words = [sys.executable, "-c", "from w2w_registry.cli import main; main()", "serve", "--port", "0", *more]
    environment = {**os.environ, "W2W_HOME": str(home), "W2W_TOKEN": TOKEN, "W2W_ACTOR": "alice"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().partition("?")[0].rstrip("/"), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def asked(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {**BEARER, "content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_three_processes_are_one_gallery(registry: Registry) -> None:
    with served(registry.settings.home, "--workers", "2") as (url, process):
        assert asked(url + "/identities/p0001")[0] == 200
        assert asked(url + "/", host="evil.example")[0] == 421
        change = {"identity": "p0001", "set": ["crew=lighting"]}
        key = {"idempotency-key": "one"}
        assert {asked(url + "/api/v1/tags", change, **key)[0] for _ in range(6)} == {200}
        for _ in range(6):  # whichever process answers
            assert b"lighting" in asked(url + "/identities/p0001")[1]
        events = log.events_list(registry, action="tag.")
        assert [event["actor"] for event in events] == ["alice"]
        first, again = asked(url + "/pictures/p0001"), asked(url + "/pictures/p0001")
        assert first == again
        assert (first[0], first[1][:4]) == (200, b"\x89PNG")
        assert [event["actor"] for event in log.events_list(registry, action="version.preview")] == ["alice"]
        if not sys.platform.startswith("linux"):
            return
        family = children(process.pid)
        assert len(family) == 3
        os.kill(family[-1], signal.SIGKILL)
        until(lambda: len(children(process.pid)) == 3 and set(children(process.pid)) != set(family))
        assert asked(url + "/")[0] == 200
        family = children(process.pid)
        process.kill()  # nobody can tell them; they see it
        until(lambda: not any(Path(f"/proc/{one}").exists() for one in family))


def test_several_processes_show_a_home_where_nothing_can_be_written(registry: Registry) -> None:
    temporary = registry.settings.home / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.write_text("no folder can be made here")  # permissions do not hold root back
    with served(registry.settings.home, "--workers", "2", "--read-only") as (url, _):
        assert asked(url + "/identities/p0001")[0] == 200
        assert asked(url + "/make")[0] == 403


def test_what_the_maker_does_no_other_process_does(registry: Registry) -> None:
    """Whatever may change something, draw or ask the base model goes on; what is left takes GET and only looks."""
    app = create_app(registry, Access(TOKEN, "curator"), frozenset({HOST}), engine=NoModel())
    for route, path in zip(own_routes(app), [p for p in paths(app) if p != app.openapi_url], strict=True):
        for method in route.methods:
            scope = {"path": path, "method": method, "query_string": b""}
            needs_model = workers.makes(scope, model=True)
            assert method in ("GET", "HEAD") or needs_model, path
            if uses(route.endpoint, "jobs", "engine"):
                assert needs_model, path
    for path, query in (("/identities/a", b"sheet=x"), ("/spaces/faces@1", b"map=umap")):
        assert workers.makes({"path": path, "method": "GET", "query_string": query}, model=False)


def test_pictures_that_wait_for_the_catalogs_writer_keep_no_page_waiting(registry: Registry) -> None:
    """More pictures than there are threads, none seen before, while somebody writes: the pages are answered."""
    app = create_app(registry, Access(TOKEN, "curator"), frozenset({HOST}), engine=NoModel())
    pictures = [f"/pictures/p{i:04d}" for i in range(10)]
    assert len(pictures) > THREADS
    with TestClient(app, base_url=ORIGIN, headers=BEARER) as client, ThreadPoolExecutor(len(pictures)) as pool:
        assert client.get("/").status_code == 200
        with registry.catalog.write("curator") as uow:
            asked = [pool.submit(client.get, one) for one in pictures]
            until(lambda: app.state.site.marking.borrowed_tokens == MARKING)
            assert [client.get(path).status_code for path in ("/identities/p0011", "/who")] == [200, 200]
            assert not any(one.done() for one in asked)
            uow.event("identity.tested")
        assert {one.result(60).status_code for one in asked} == {200}


def uses(endpoint: Callable[..., Any], *names: str) -> bool:
    """Whether a function reads one of these attributes itself."""
    return bool(set(names) & set(endpoint.__code__.co_names))


def test_only_its_own_processes_reach_the_maker(app: FastAPI) -> None:
    maker = workers.FromWorkers(app, secret="s" * 32)
    for headers in ({}, {"x-w2w-forwarded": "wrong 127.0.0.1"}):
        assert TestClient(maker, base_url=ORIGIN, headers={**BEARER, **headers}).get("/").status_code == 403
    inside = TestClient(maker, base_url=ORIGIN, headers={**BEARER, "x-w2w-forwarded": f"{'s' * 32} 10.1.2.3"})
    assert inside.get("/").status_code == 200
    assert inside.get("/", headers={"host": "evil.example"}).status_code == 421


def test_requests_are_counted_together() -> None:
    limits = Limits(rate=0.001, burst=10)
    shared = workers.SharedBuckets(limits)

    def ask() -> None:
        for _ in range(4):
            shared.take("alice")

    others = [multiprocessing.get_context("fork").Process(target=ask) for _ in range(2)]
    for one in others:
        one.start()
    for one in others:
        one.join()
    assert [shared.take("alice") == 0 for _ in range(3)] == [True, True, False]
    assert shared.take("bob") == 0


def test_shared_buckets_are_buckets() -> None:
    limits = Limits(rate=0.001, burst=5)
    own, shared = OwnBuckets(limits), workers.SharedBuckets(limits)
    for caller in ("a", "b", "a", "a", "c", "a", "a", "a", "b", "a"):
        assert (own.take(caller) == 0) == (shared.take(caller) == 0)
    for number in range(3 * workers.SLOTS):  # more callers than there is room for
        assert shared.take(f"caller {number}") == 0


def test_changes_are_counted_together() -> None:
    changes = workers.SharedChanges()
    other = multiprocessing.get_context("fork").Process(target=changes.one_more)
    other.start()
    other.join()
    changes.one_more()
    assert changes.count() == 2
