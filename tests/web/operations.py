"""What can be done both by the web and by the command line, drawn by chance."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastapi.testclient import TestClient

from tests.web.conftest import ORIGIN

OF_THE_MOMENT = frozenset((
    "id", "operation", "operation_id", "started_at", "ended_at", "created", "at", "since", "until", "manifest_digest",
    "agent", "record",
))  # fmt: skip
"""What no two doings share: when it was, and the numbers drawn for it."""
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
Answer = tuple[str, Any]
Turn = Literal["each", "first refusal ends", "one is enough"]


def scrub(value: Any) -> Any:
    if isinstance(value, dict):
        dated = OF_THE_MOMENT | {"digest"} if "record_id" in value else OF_THE_MOMENT  # a consent's covers its receipts
        return {key: scrub(one) for key, one in value.items() if key not in dated}
    if isinstance(value, str) and MOMENT.match(value):
        return "a moment"
    if not isinstance(value, list):
        return value
    drawn = any(isinstance(one, dict) and "operation_id" in one and "inputs" in one for one in value)
    found = [scrub(one) for one in value]
    return sorted(found, key=json.dumps) if drawn else found  # their order is that of numbers drawn for them


def whole(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Web:
    """A request: through the API, ("ok", answer) or (the refusal's code, None); a page says no more than whether it
    was done. ``seen`` is what of the answer has to be as ``--json`` has it."""

    method: str
    path: str
    send: dict[str, Any] = field(default_factory=dict)
    seen: Callable[[Any], Any] = whole

    @property
    def page(self) -> bool:
        return not self.path.startswith("/api/")

    @property
    def headers(self) -> dict[str, str]:
        if self.page:
            return {"origin": ORIGIN}
        return {"content-type": "application/octet-stream"} if "content" in self.send else {}

    def __call__(self, client: TestClient) -> Answer:
        answer = client.request(self.method, self.path, headers=self.headers, **self.send)
        if self.page:
            return ("ok" if answer.status_code in (200, 303) else "refused"), None
        if answer.status_code >= 400:
            return answer.json()["code"], None
        return "ok", scrub(self.seen(answer.json()))


@dataclass(frozen=True)
class Operation:
    """The same by commands and by a request. ``turn``: what becomes of several commands when one is refused; ``seen``:
    what of a command's answer the web gives."""

    commands: list[list[str]]
    web: Web
    turn: Turn = "each"
    seen: Callable[[Any], Any] = whole


def api(method: str, path: str, seen: Callable[[Any], Any] = whole, **body: Any) -> Web:
    return Web(method, "/api/v1" + path, {"json": body} if method == "POST" else {}, seen)


def form(path: str, **fields: str | list[str]) -> Web:
    return Web("POST", path, {"data": fields})


def one(words: Sequence[str], web: Web, seen: Callable[[Any], Any] = whole) -> Operation:
    return Operation([list(words)], web, seen=seen)


def row(key: str) -> Callable[[Any], Any]:
    return lambda value: value[key]


def who_did_what(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [[one["actor"], one["action"]] for one in rows]


def unnamed(found: dict[str, Any]) -> dict[str, Any]:
    """A search's answer without what the query was called: a path here, a file's name there."""
    return {key: value for key, value in found.items() if key != "query"}


class Operations:
    """One operation after another, as chance has it; ``files`` are adapters that may be sent."""

    def __init__(self, seed: int, names: list[str], files: Sequence[Path], out: Path) -> None:
        self.random, self.names, self.files, self.out, self.made = random.Random(seed), names, list(files), out, 0

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

    def subject_id(self) -> str:
        return self.random.choice(["s-0", "s-1", "s-3", "s-9"])

    def next(self) -> Operation:
        kinds = (
            (self.tag, 4), (self.tag_form, 3), (self.untag, 2), (self.alias, 3), (self.alias_form, 2),
            (self.unalias, 1), (self.note, 2), (self.tag_several, 3), (self.collect, 2), (self.export, 2),
            (self.whom_they_depict, 1), (self.show, 4), (self.listing, 3), (self.search, 3), (self.search_file, 3),
            (self.who_is_this, 1), (self.register, 3), (self.edit, 3), (self.edit_form, 2), (self.mix, 3),
            (self.mix_form, 1), (self.sample, 1), (self.lineage, 2), (self.history, 1), (self.spaces, 1),
            (self.space, 1), (self.subjects, 1), (self.subject, 2), (self.held, 2), (self.resolve, 3),
            (self.resolve_form, 2), (self.events, 2), (self.verify, 1), (self.verify_form, 1), (self.receipts, 1),
            (self.withdraw, 1),
        )  # fmt: skip
        (kind,) = self.random.choices([k for k, _ in kinds], [weight for _, weight in kinds])
        return kind()

    # -- describing ----------------------------------------------------------------------------------
    def pair(self) -> str:
        return self.random.choice(["team=ads", "team=art", "n=1", "bad", "a b=c", "k=<b>"])

    def tag(self) -> Operation:
        name, pair = self.name(), self.pair()
        return one(["tag", "set", name, pair], api("POST", "/tags", identity=name, set=[pair]))

    def tag_form(self) -> Operation:
        name, pair = self.name(), self.pair()
        return one(["tag", "set", name, pair], form("/tags", identity=name, tags=pair))

    def untag(self) -> Operation:
        name, key = self.name(), self.random.choice(["team", "n", "never"])
        return one(["tag", "unset", name, key], api("POST", "/tags", identity=name, unset=[key]))

    def alias(self) -> Operation:
        name, alias = self.name(), self.random.choice(["production", "best", "7", "a b"])
        return one(["alias", "set", alias, name], api("POST", "/aliases", alias=alias, target=name))

    def alias_form(self) -> Operation:
        name, alias = self.name(), self.random.choice(["production", "best", "7", "a b"])
        return one(["alias", "set", alias, name], form("/aliases", target=name, alias=alias))

    def unalias(self) -> Operation:
        name, alias = self.name().partition("@")[0], self.random.choice(["production", "best"])
        return one(["alias", "unset", alias, name], api("POST", "/aliases", alias=alias, identity=name))

    def note(self) -> Operation:
        name, text = self.name(), self.random.choice(["look again", "<i>no</i>"])
        return one(["note", name, text], form("/notes", identity=name, text=text))

    # -- a selection ---------------------------------------------------------------------------------
    def several(self) -> list[str]:
        return list(dict.fromkeys(self.name_in_an_address() for _ in range(self.random.randint(1, 3))))

    def tag_several(self) -> Operation:
        names, pair = self.several(), self.pair()
        web = form("/selection", action="tag", identity=names, tags=pair)
        return Operation([["tag", "set", name, pair] for name in names], web, "first refusal ends")

    def collect(self) -> Operation:
        names, called = self.several(), self.random.choice(["spring", "autumn"])
        web = form("/selection", action="collect", identity=names, collection=called)
        return one(["collection", "add", called, *names], web)

    def export(self) -> Operation:
        names = self.several()
        self.made += 1
        commands = [["export", name, str(self.out / f"{self.made}-{i}")] for i, name in enumerate(names)]
        return Operation(commands, form("/selection", action="export", identity=names), "one is enough")

    def whom_they_depict(self) -> Operation:
        names = self.several()
        web = form("/selection", action="withdraw", identity=names)
        return Operation([["show", name] for name in names], web, "first refusal ends")

    # -- looking -------------------------------------------------------------------------------------
    def show(self) -> Operation:
        name = self.name_in_an_address()
        return one(["show", name], api("GET", f"/identities/{name}"))

    def history(self) -> Operation:
        name = self.name_in_an_address().partition("@")[0]
        return one(["history", name], api("GET", f"/history/{name}"))

    def lineage(self) -> Operation:
        name = self.name_in_an_address()
        return one(["lineage", name], api("GET", f"/lineage/{name}"))

    def listing(self) -> Operation:
        where = self.random.choice(
            ["team = ads", "tag.team = art", "kind ==", "beard = 1 and state = blocked", "x = 1", "held"]
        )
        return one(
            ["list", "--where", where], api("GET", f"/identities?limit=500&where={where}", seen=row("identities"))
        )

    def spaces(self) -> Operation:
        return one(["space", "list"], api("GET", "/spaces"))

    def space(self) -> Operation:
        name = self.random.choice(["faces", "faces@1", "faces@7", "none"])
        return one(["space", "show", name], api("GET", f"/spaces/{name}"))

    def search(self) -> Operation:
        name = self.name_in_an_address()
        return one(["search", name, "-k", "3"], api("POST", "/search", query=name, limit=3))

    def search_file(self) -> Operation:
        path = self.random.choice(self.files)
        web = Web("POST", f"/api/v1/search/file?limit=3&name={path.name}", {"content": path.read_bytes()}, seen=unnamed)
        return one(["search", str(path), "-k", "3"], web, seen=unnamed)

    def who_is_this(self) -> Operation:
        path = self.random.choice(self.files)
        web = Web("POST", "/who", {"files": [("files", (path.name, path.read_bytes()))]})
        return one(["search", str(path)], web)

    # -- making --------------------------------------------------------------------------------------
    def register(self) -> Operation:
        path, new, subject = self.random.choice(self.files), self.new(), self.subject_id()
        web = Web(
            "POST",
            "/who",
            {"files": [("files", (path.name, path.read_bytes()))], "data": {"name": new, "subject": subject}},
        )
        if not new:  # without a name a form only asks
            return one(["search", str(path)], web)
        return one(["add", str(path), "--name", new, "--subject", subject], web)

    def edit(self) -> Operation:
        name, amount, new = self.name(), self.random.choice([0.5, 1.0, -1.0]), self.new()
        words = ["edit", name, "--edit", f"skin={amount}", "--name", new]
        return one(words, api("POST", "/edits", identity=name, amounts={"skin": amount}, name=new))

    def edit_form(self) -> Operation:
        name, amount, new = self.name(), self.random.choice(["0.5", "-1.0"]), self.new()
        words = ["edit", name, "--edit", f"skin={amount}", "--name", new]
        return one(words, form("/make", action="save", **{"from": name, "d.skin": amount, "name": new}))

    def mix(self) -> Operation:
        first, other, new = self.name(), self.name(), self.new()
        return one(["mix", first, other, "--name", new], api("POST", "/mixes", identities=[first, other], name=new))

    def mix_form(self) -> Operation:
        first, other, new = self.name(), self.name(), self.new()
        return one(["mix", first, other, "--name", new], form("/mixes", people=f"{first}, {other}", name=new))

    def sample(self) -> Operation:
        name, seed = f"s{self.made}", str(self.random.randrange(99))
        words = ["sample", "-n", "2", "--space", "faces", "--name", name, "--seed", seed]
        return one(words, form("/samples", count="2", space="faces", name=name, seed=seed))

    # -- consent and the log -------------------------------------------------------------------------
    def subjects(self) -> Operation:
        return one(["subject", "list"], api("GET", "/subjects?limit=500", seen=row("subjects")))

    def subject(self) -> Operation:
        subject = self.subject_id()
        return one(["subject", "show", subject], api("GET", f"/subjects/{subject}"))

    def held(self) -> Operation:
        return one(["audit", "query", "held"], api("GET", "/held"))

    def decision(self) -> tuple[str, str | None, str]:
        """A version that may be held, whom it is the same as (or nobody), and why."""
        held = self.random.choice(["held/0", "held/1", "held/2", "held/3", *self.names[-3:], "nobody"])
        same = self.random.choice([None, None, "acme/0", "acme/1", "p0003", "nobody"])
        return held, same, self.random.choice(["looked", "same face", "they said so"])

    def resolve(self) -> Operation:
        held, same, reason = self.decision()
        how = ["--distinct"] if same is None else ["--same-as", same]
        said: dict[str, Any] = {"distinct": True} if same is None else {"same_as": same}
        return one(
            ["resolve", held, *how, "--reason", reason], api("POST", "/held", version=held, reason=reason, **said)
        )

    def resolve_form(self) -> Operation:
        held, same, reason = self.decision()
        reason = self.random.choice([reason, " "])
        how = ["--distinct"] if same is None else ["--same-as", same]
        web = form(
            "/compliance/held",
            version=held,
            decision="distinct" if same is None else "same",
            same_as=same or "",
            reason=reason,
        )
        return one(["resolve", held, *how, "--reason", reason], web)

    def events(self) -> Operation:
        action = self.random.choice(["tag.", "version.", "consent.", "never."])
        words = ["audit", "query", "actions", "--action", action, "--limit", "1000"]
        web = api("GET", f"/events?limit=1000&action={action}", seen=lambda found: who_did_what(found["events"]))
        return one(words, web, seen=who_did_what)

    def verify(self) -> Operation:
        return one(["audit", "verify"], api("POST", "/verify"))

    def verify_form(self) -> Operation:
        return one(["audit", "verify"], form("/compliance/verify", days="30"))

    def receipts(self) -> Operation:
        subject = self.subject_id()
        return one(["consent", "receipt", subject], form(f"/compliance/receipts/{subject}", csrf=""))

    def withdraw(self) -> Operation:
        subject = self.random.choice(["s-9", "s-3"])
        return one(["consent", "withdraw", subject], form(f"/compliance/withdrawals/{subject}", confirm=subject))
