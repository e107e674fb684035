"""Random operations by the web and by the command line: whichever way a thing is done, the answer, the refusal and what
is there afterwards are the same, and the log is one chain.

Two registries start alike. Each operation is done to one through the gallery and to the other by a command, which one
is chance; so either registry's log is written by both.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.services.world import make_world
from tests.web.conftest import HOST, ORIGIN, TOKEN, NoModel, open_home
from w2w_registry.cli.app import main
from w2w_registry.consent.records import Scope
from w2w_registry.services.audit import log
from w2w_registry.services.consent import grants
from w2w_registry.services.identities import manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis import directions
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app
from w2w_registry.web.limits import Limits

OF_THE_MOMENT = frozenset((
    "id", "operation", "operation_id", "started_at", "ended_at", "created", "at", "since", "until", "manifest_digest",
    "agent",
))  # fmt: skip
"""What no two doings share: when it was, and the numbers drawn for it."""
Answer = tuple[str, Any]
Web = Callable[[TestClient], Answer]
Operation = tuple[list[str], Web]


def scrub(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: scrub(one) for key, one in value.items() if key not in OF_THE_MOMENT}
    if not isinstance(value, list):
        return value
    drawn = any(isinstance(one, dict) and "operation_id" in one and "inputs" in one for one in value)
    found = [scrub(one) for one in value]
    return sorted(found, key=json.dumps) if drawn else found  # their order is that of numbers drawn for them


def api(method: str, path: str, rows: str | None = None, **body: Any) -> Web:
    """An operation through the API: ("ok", answer) or (the refusal's code, None)."""

    def ask(client: TestClient) -> Answer:
        answer = client.request(method, "/api/v1" + path, json=body or None)
        if answer.status_code >= 400:
            return answer.json()["code"], None
        value = answer.json()
        return "ok", scrub(value if rows is None else value[rows])

    return ask


def form(path: str, **fields: str) -> Web:
    """An operation through a page's form; a page says no more than whether it was done, and its title else."""

    def ask(client: TestClient) -> Answer:
        answer = client.post(path, data=fields, headers={"origin": ORIGIN})
        return ("ok" if answer.status_code in (200, 303) else "refused"), None

    return ask


class Operations:
    """One operation after another, as chance has it."""

    def __init__(self, seed: int, names: list[str]) -> None:
        self.random, self.names, self.made = random.Random(seed), names, 0

    def name(self) -> str:
        odd = ["nobody", "p0001@9", "p0002@production", "a//b", "../x", "p0003@1", "-", "acme/alice@1"]
        return self.random.choice(odd if self.random.random() < 0.2 else self.names)

    def name_in_an_address(self) -> str:
        """No dots that lead upwards: a browser has followed them before anybody is asked, and to `search` they are a
        path, which nothing that comes over the network ever is."""
        name = self.name()
        return "nobody" if ".." in name or "//" in name else name

    def new(self) -> str:
        self.made += 1
        if self.random.random() < 0.9:
            self.names.append(f"made/{self.made}")
            return self.names[-1]
        return self.random.choice(["p0001", "bad name", "", "made/1"])

    def next(self) -> Operation:
        kinds = (
            (self.tag, 5), (self.untag, 2), (self.alias, 3), (self.unalias, 1), (self.note, 2), (self.show, 4),
            (self.listing, 3), (self.search, 3), (self.edit, 3), (self.mix, 3), (self.sample, 1), (self.lineage, 2),
            (self.history, 1), (self.subject, 2), (self.withdraw, 1),
        )  # fmt: skip
        (kind,) = self.random.choices([k for k, _ in kinds], [weight for _, weight in kinds])
        return kind()

    def tag(self) -> Operation:
        name, pair = self.name(), self.random.choice(["team=ads", "team=art", "n=1", "bad", "a b=c", "k=<b>"])
        return ["tag", "set", name, pair], api("POST", "/tags", identity=name, set=[pair])

    def untag(self) -> Operation:
        name, key = self.name(), self.random.choice(["team", "n", "never"])
        return ["tag", "unset", name, key], api("POST", "/tags", identity=name, unset=[key])

    def alias(self) -> Operation:
        name, alias = self.name(), self.random.choice(["production", "best", "7", "a b"])
        return ["alias", "set", alias, name], api("POST", "/aliases", alias=alias, target=name)

    def unalias(self) -> Operation:
        name, alias = self.name().partition("@")[0], self.random.choice(["production", "best"])
        return ["alias", "unset", alias, name], api("POST", "/aliases", alias=alias, identity=name)

    def note(self) -> Operation:
        name, text = self.name(), self.random.choice(["look again", "<i>no</i>"])
        return ["note", name, text], form("/notes", identity=name, text=text)

    def show(self) -> Operation:
        name = self.name_in_an_address()
        return ["show", name], api("GET", f"/identities/{name}")

    def history(self) -> Operation:
        name = self.name_in_an_address().partition("@")[0]
        return ["history", name], api("GET", f"/history/{name}")

    def lineage(self) -> Operation:
        name = self.name_in_an_address()
        return ["lineage", name], api("GET", f"/lineage/{name}")

    def listing(self) -> Operation:
        where = self.random.choice(
            ["team = ads", "tag.team = art", "kind ==", "beard = 1 and state = blocked", "x = 1"]
        )
        return ["list", "--where", where], api("GET", f"/identities?limit=500&where={where}", "identities")

    def search(self) -> Operation:
        name = self.name_in_an_address()
        return ["search", name, "-k", "3"], api("POST", "/search", query=name, limit=3)

    def edit(self) -> Operation:
        name, amount, new = self.name(), self.random.choice([0.5, 1.0, -1.0]), self.new()
        typed = ["edit", name, "--direction", f"skin={amount}", "--name", new]
        return typed, api("POST", "/edits", identity=name, amounts={"skin": amount}, name=new)

    def mix(self) -> Operation:
        one, other, new = self.name(), self.name(), self.new()
        return ["mix", one, other, "--name", new], api("POST", "/mixes", identities=[one, other], name=new)

    def sample(self) -> Operation:
        name, seed = f"s{self.made}", str(self.random.randrange(99))
        typed = ["sample", "-n", "2", "--space", "faces", "--name", name, "--seed", seed]
        return typed, form("/samples", count="2", space="faces", name=name, seed=seed)

    def subject(self) -> Operation:
        subject = self.random.choice(["s-0", "s-1", "s-9"])
        return ["subject", "show", subject], api("GET", f"/subjects/{subject}")

    def withdraw(self) -> Operation:
        subject = self.random.choice(["s-9", "s-3"])
        return ["consent", "withdraw", subject], form(f"/compliance/withdrawals/{subject}", confirm=subject)


def typed(home: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> Answer:
    """The same by a command: ("ok", what it prints) or (the error's code, None)."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["--home", str(home), "--actor", "curator", *words, "--json"])
    out, err = capsys.readouterr()
    if stop.value.code:
        line = err.strip().splitlines()[-1] if err.strip() else ""
        return (json.loads(line)["error"]["code"] if line.startswith("{") else "usage"), None
    return "ok", scrub(json.loads(out))


@pytest.fixture
def twins(registry: Registry, tmp_path: Path) -> list[Path]:
    """Two homes alike: fifty people, four of whom agreed, and a direction."""
    scope = Scope(purposes=("any",), derivatives=True, publication=True)
    loras = make_world(60).write(tmp_path / "new", range(55, 59))
    for i in range(4):
        grants.grant(registry, f"s-{i}", scope)
        add(registry, AddRequest(paths=(str(loras / f"p005{5 + i}"),), name=f"acme/{i}", subjects=(f"s-{i}",)))
    for i in range(54):
        name = f"p{i:04d}" if i < 50 else f"acme/{i - 50}"
        manage.set_tags(registry, name, ["seen=no"])
    labelled(registry, tmp_path)
    directions.fit(registry, "skin", "skin")
    shutil.copytree(tmp_path / "home", tmp_path / "twin")
    return [tmp_path / "home", tmp_path / "twin"]


def labelled(registry: Registry, folder: Path) -> None:
    from w2w_registry.services.identities import describing

    lines = ["id,skin", *(f"p{i:04d},{(i * 7 % 50) / 50}" for i in range(50))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    describing.import_labels(registry, str(folder / "labels.csv"))


def same_whichever_way(homes: list[Path], count: int, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    registries = [open_home(home) for home in homes]
    generous = Limits(rate=1e6, burst=10**6)
    clients = [
        TestClient(
            create_app(one, Access(TOKEN, "curator"), frozenset({HOST}), limits=generous, engine=NoModel()),
            base_url=ORIGIN,
            headers={"authorization": f"Bearer {TOKEN}"},
            follow_redirects=False,
        )
        for one in registries
    ]
    operations = Operations(seed, ["acme/0", "acme/1", "acme/2", "acme/3", *(f"p{i:04d}" for i in range(6))])
    for number in range(count):
        words, web = operations.next()
        way = operations.random.randrange(2)
        by_web, by_command = web(clients[way]), typed(homes[1 - way], words, capsys)
        told = f"operation {number} of seed {seed}: {words}"
        if by_web[0] == "refused":
            assert by_command[0] != "ok", told
        else:
            assert by_web[0] == by_command[0], f"{told}: {by_web[0]} by the web, {by_command[0]} by command"
        if by_web[1] is not None:
            assert by_web[1] == by_command[1], told
        assert registries[0].catalog.last_change() == registries[1].catalog.last_change(), (
            f"{told}: {[[e['action'] for e in log.events_list(one, limit=4)] for one in registries]}"
        )
    rows = [[row.to_json() for row in manage.list_identities(one)] for one in registries]
    states = [scrub(json.loads(json.dumps(one, default=str))) for one in rows]
    assert states[0] == states[1]
    chains = [log.events_list(one) for one in registries]
    assert [event["action"] for event in chains[0]] == [event["action"] for event in chains[1]]
    for one in registries:
        assert log.verify(one).ok
        one.catalog.close()


def test_web_and_command_line_cannot_differ(twins: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    same_whichever_way(twins, 60, int(os.environ.get("W2W_SEED", "1")), capsys)


@pytest.mark.soak
def test_ten_thousand_operations(twins: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    count, seed = int(os.environ.get("W2W_OPERATIONS", "10000")), int(os.environ.get("W2W_SEED", "7"))
    same_whichever_way(twins, count, seed, capsys)
