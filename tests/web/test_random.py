"""Random operations by the web and by the command line: whichever way a thing is done, the answer, the refusal and what
is there afterwards are the same, and the log is one chain.

Two registries start alike. Each operation is done to one through the gallery and to the other by a command, which one
is chance; so either registry's log is written by both. What is drawn is held against the tables of routes and commands:
one of either that is neither drawn nor said to have no twin fails.

``W2W_SEED=7 W2W_OPERATIONS=10000 pytest -m soak tests/web/test_random.py`` does ten thousand. Several seeds with fewer
each do as well (``W2W_SEED=3,4,7``), and one that fails is played again by its seed.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Match

from tests.cli.walk import commands
from tests.services.world import make_world
from tests.web.conftest import HOST, ORIGIN, TOKEN, NoModel
from tests.web.operations import Answer, Operation, Operations, scrub
from tests.web.routes import own_routes
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import session as catalog_session
from w2w_registry.catalog.engine import make_engine
from w2w_registry.catalog.session import Catalog
from w2w_registry.cli.app import main
from w2w_registry.consent.records import Scope
from w2w_registry.services.audit import log
from w2w_registry.services.consent import grants
from w2w_registry.services.identities import browsing, describing, manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis import directions
from w2w_registry.settings import load_settings
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app
from w2w_registry.web.limits import Limits

SUBJECTS = 4
FILES = 8
ROUTES_WITHOUT_TWIN = {
    "POST /make/pictures": "draws a picture to look at; nothing is recorded",
    "POST /make/pictures/{job}/cancel": "gives such a picture up",
    "POST /sheets": "draws pictures, for which a base model is needed",
    "POST /previews": "draws a picture, for which a base model is needed",
}
COMMANDS_WITHOUT_TWIN = {
    "the web has no route for it: people and their consent are recorded by command": (
        "subject add, subject assign, subject protect, consent request, consent sign, consent grant, consent narrow, "
        "consent renew, consent invalidate, consent dispute, consent resolve, consent show, consent check"
    ),
    "the web has no route for it: spaces, directions and fingerprints are fitted by command": (
        "space fit, space import, space export, space map, space refit, space update, space migrate, fingerprint, "
        "calibrate, direction fit, direction list, direction show, direction compose, direction debias, initializer fit"
    ),
    "the web has no route for it": (
        "label import, label export, label set, label unset, rate, collection list, collection remove, "
        "collection show, rename, preview set, remove, groups, duplicates, diff, stats, manifest, replay, whose, "
        "detect, verify, sign, report roi, report subject"
    ),
    "needs a base model": "train, invert, generate, evaluate, preview draw",
    "speaks to the Hub": "push, push-space, pull, sync, releases, takedown",
    "keeps the registry itself": (
        "init, serve, doctor, config set, config show, config unset, policy history, policy set, policy show, backup, "
        "restore, copy-to, db check, db current, db upgrade, index optimize, gc, audit checkpoint, audit prove, "
        "audit export, audit publish, audit witness, audit report"
    ),
}
GENEROUS = Limits(rate=1e6, burst=10**6)


def names_to_begin_with() -> list[str]:
    return [f"acme/{i}" for i in range(SUBJECTS)] + [f"p{i:04d}" for i in range(6)]


def template_of(app: FastAPI, method: str, path: str) -> str:
    """The route that answers a request, as ``POST /api/v1/tags``."""
    scope = {"type": "http", "method": method, "path": path.partition("?")[0], "root_path": "", "headers": []}
    (first, *_) = [route for route in own_routes(app) if route.matches(scope)[0] is Match.FULL]
    return f"{method} {first.path}"


def asked_for(routes: Iterable[str]) -> set[str]:
    """Of all routes those that change something, and whatever the API answers."""
    return {one for one in routes if not one.startswith(("GET ", "HEAD ")) or " /api/v1/" in one}


def test_every_route_and_command_is_drawn_or_has_no_twin(app: FastAPI, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    file.write_bytes(b"")
    drawn = Operations(0, names_to_begin_with(), [file], tmp_path)
    found = [drawn.next() for _ in range(2000)]
    routes = {f"{method} {route.path}" for route in own_routes(app) for method in route.methods}
    played = {template_of(app, one.web.method, one.web.path) for one in found}
    assert asked_for(routes) - set(ROUTES_WITHOUT_TWIN) == asked_for(played)
    assert set(ROUTES_WITHOUT_TWIN) <= routes
    every = {name for name, _ in commands()}
    alone = [name for names in COMMANDS_WITHOUT_TWIN.values() for name in names.split(", ")]
    typed_words = {" ".join(words[:count]) for one in found for words in one.commands for count in (1, 2, 3)}
    assert len(alone) == len(set(alone))
    assert every - set(alone) == every & typed_words


def typed(home: Path, operation: Operation, capsys: pytest.CaptureFixture[str]) -> Answer:
    """The same by commands: ("ok", what the only one prints) or (the first refusal's code, None)."""
    refusal: str | None = None
    done, value = 0, None
    for words in operation.commands:
        code, value = by_command(home, words, capsys)
        done += code == "ok"
        refusal = refusal or (code if code != "ok" else None)
        if refusal and operation.turn == "first refusal ends":
            break
    if refusal and not (done and operation.turn == "one is enough"):
        return refusal, None
    return "ok", scrub(operation.seen(value)) if len(operation.commands) == 1 else None


def by_command(home: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> Answer:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["--home", str(home), "--actor", "curator", *words, "--json"])
    out, err = capsys.readouterr()
    if stop.value.code:
        line = err.strip().splitlines()[-1] if err.strip() else ""
        return (json.loads(line)["error"]["code"] if line.startswith("{") else "usage"), None
    return "ok", json.loads(out)


def first_difference(web: Any, hand: Any, place: str = "answer") -> str:
    """Where two answers part, and how."""
    if isinstance(web, dict) and isinstance(hand, dict) and web.keys() == hand.keys():
        pairs = [(f"{place}.{key}", web[key], hand[key]) for key in web]
    elif isinstance(web, list) and isinstance(hand, list) and len(web) == len(hand):
        pairs = [(f"{place}[{i}]", *both) for i, both in enumerate(zip(web, hand, strict=True))]
    else:
        return f"{place} is {str(web)[:400]} by the web, {str(hand)[:400]} by command"
    return next((first_difference(a, b, at) for at, a, b in pairs if a != b), f"{place} is the same")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Adapters that may be sent: people who are not registered, and registered ones trained again."""
    world, folder = make_world(60), tmp_path / "files"
    folder.mkdir()
    found = []
    for training, people in ((0, range(50, 54)), (3, range(53, 57))):
        made = world.write(tmp_path / f"written-{training}", people, training=training)
        for one in sorted(made.iterdir()):
            path = folder / f"{one.name}-{training}.safetensors"
            shutil.copy(one / "adapter_model.safetensors", path)
            found.append(path)
    assert len(found) == FILES
    return found


@pytest.fixture
def twins(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two homes alike: fifty people, four of whom agreed, a direction, and four models held because they resemble
    somebody whom they do not name."""
    scope, world = Scope(purposes=("any",), derivatives=True, publication=True), make_world(60)
    loras = world.write(tmp_path / "new", range(55, 59))
    for i in range(SUBJECTS):
        grants.grant(registry, f"s-{i}", scope)
        add(registry, AddRequest(paths=(str(loras / f"p005{5 + i}"),), name=f"acme/{i}", subjects=(f"s-{i}",)))
    again = world.write(tmp_path / "again", range(55, 59), training=1)
    grants.grant(registry, "s-mallory", scope)
    olga = replace(registry, settings=replace(registry.settings, actor="olga"))
    for i in range(SUBJECTS):
        add(olga, AddRequest(paths=(str(again / f"p005{5 + i}"),), name=f"held/{i}", subjects=("s-mallory",)))
        assert manage.show(registry, f"held/{i}")["state"] == "held"
    for i in range(54):
        name = f"p{i:04d}" if i < 50 else f"acme/{i - 50}"
        manage.set_tags(registry, name, ["seen=no"])
    labelled(registry, tmp_path)
    directions.fit(registry, "skin", "skin")
    shutil.copytree(tmp_path / "home", tmp_path / "twin")
    monkeypatch.setattr(catalog_session, "make_engine", functools.cache(make_engine))  # keeps compiled statements
    return [tmp_path / "home", tmp_path / "twin"]


def labelled(registry: Registry, folder: Path) -> None:
    lines = ["id,skin", *(f"p{i:04d},{(i * 7 % 50) / 50}" for i in range(50))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    describing.import_labels(registry, str(folder / "labels.csv"))


def opened(home: Path) -> Registry:
    """The registry as a command opens it, so that either way is held to one policy."""
    settings = load_settings(home, actor="curator")
    return Registry(
        settings, Catalog(settings.database_url, event_hash=event_hash), ArtifactStore(str(home / "artifacts"))
    )


def same_whichever_way(
    homes: list[Path], files: list[Path], count: int, seed: int, capsys: pytest.CaptureFixture[str]
) -> float:
    """Plays ``count`` operations; returns how many CPU seconds one took."""
    registries = [opened(home) for home in homes]
    clients = [
        TestClient(
            create_app(one, Access(TOKEN, "curator"), frozenset({HOST}), limits=GENEROUS, engine=NoModel()),
            base_url=ORIGIN,
            headers={"authorization": f"Bearer {TOKEN}"},
            follow_redirects=False,
        )
        for one in registries
    ]
    operations = Operations(seed, names_to_begin_with(), files, homes[0].parent / "exported")
    began = time.process_time()
    for number in range(count):
        operation = operations.next()
        way = operations.random.randrange(2)
        by_web, by_hand = operation.web(clients[way]), typed(homes[1 - way], operation, capsys)
        told = f"operation {number} of seed {seed}: {operation.commands}, {operation.web.method} {operation.web.path}"
        if by_web[0] == "refused":
            assert by_hand[0] != "ok", told
        elif by_hand[0] == "usage" and any("" in words for words in operation.commands):
            assert by_web[0] != "ok", told  # an option without a value is a slip of the shell, and told as one
        else:
            assert by_web[0] == by_hand[0], f"{told}: {by_web[0]} by the web, {by_hand[0]} by command"
        if by_web[1] is not None:
            assert by_web[1] == by_hand[1], f"{told}: {first_difference(by_web[1], by_hand[1])}"
        assert registries[0].catalog.last_change() == registries[1].catalog.last_change(), (
            f"{told}: {[[e['action'] for e in log.events_list(one, limit=4, newest_first=True)] for one in registries]}"
        )
    spent = (time.process_time() - began) / count
    rows = [[row.to_json() for row in browsing.browse(one)] for one in registries]
    states = [scrub(json.loads(json.dumps(one, default=str))) for one in rows]
    assert states[0] == states[1]
    chains = [log.events_list(one) for one in registries]
    assert [(e["action"], e["actor"]) for e in chains[0]] == [(e["action"], e["actor"]) for e in chains[1]]
    for one in registries:
        assert log.verify(one).ok
        one.catalog.close()
    return spent


def test_web_and_command_line_cannot_differ(
    twins: list[Path], files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    same_whichever_way(twins, files, 60, 1, capsys)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [int(seed) for seed in os.environ.get("W2W_SEED", "7").split(",")])
def test_ten_thousand_operations(
    twins: list[Path], files: list[Path], capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    count = int(os.environ.get("W2W_OPERATIONS", "10000"))
    spent = same_whichever_way(twins, files, count, seed, capsys)
    with capsys.disabled():
        print(f"\n{count} operations of seed {seed}: none differs; {spent:.2f} CPU seconds each, both ways")
