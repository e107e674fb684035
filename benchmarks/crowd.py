"""Fifty people at a gallery: a load generator in a process of its own, speaking plain HTTP/1.1 over kept connections.

    python -m benchmarks.crowd PLAN.json

The plan (see :class:`Plan`) names the server and what there is to look at; the answer, one JSON object, goes to
standard output. Each person goes to a place as chance has it, waits for the answer, fetches the pictures at the top of
the page that this browser has not seen yet, thinks, and goes on. Thinking takes an exponentially distributed time, as
in TPC-W (whose mean is seven seconds); a mean of nought is a closed loop: everybody asks again as soon as answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

PICTURES: Final = 12
_PICTURE: Final = re.compile(rb'<img class="face" src="([^"]+)"')


@dataclass(frozen=True)
class Plan:
    """``places``: kind of place -> (share of the visits, addresses). ``until``: a file; when it is there, or after
    ``seconds``, everybody goes home. ``tour``: instead of that every address is seen once."""

    host: str
    port: int
    people: int
    think: float
    seconds: float
    places: dict[str, tuple[float, Sequence[str]]]
    until: str | None = None
    seed: int = 1
    tour: bool = False


@dataclass
class Seen:
    """What happened: seconds of each answer by kind of place, pictures apart, and what went wrong."""

    times: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"times": self.times, "errors": self.errors[:20], "failed": len(self.errors)}


class Browser:
    """One person's connection; ``headers`` say who it is."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan, self._name = plan, name
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._cached: set[bytes] = set()

    async def get(self, path: str) -> tuple[int, bytes]:
        for _ in range(2):  # a kept connection may have been closed meanwhile
            kept = self._streams is not None
            try:
                return await self._get(path)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if not kept:
                    raise
        raise ConnectionError(path)

    async def _get(self, path: str) -> tuple[int, bytes]:
        plan = self._plan
        if self._streams is None:
            self._streams = await asyncio.open_connection(plan.host, plan.port)
        reader, writer = self._streams
        head = f"GET {path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nX-Forwarded-User: {self._name}\r\n\r\n"
        writer.write(head.encode())
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        said = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
        body = await reader.readexactly(int(said.get(b"content-length", b"0")))
        if said.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split()[1]), body

    def unseen(self, body: bytes) -> list[str]:
        """The pictures at the top of a page that this browser does not have yet."""
        found = [src for src in _PICTURE.findall(body)[:PICTURES] if src not in self._cached]
        self._cached.update(found)
        return [src.decode().replace("&amp;", "&") for src in found]

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def crowd(plan: Plan) -> Seen:
    """Let everybody in, and see."""
    seen, end = Seen(), time.monotonic() + plan.seconds
    until = None if plan.until is None else Path(plan.until)

    def over() -> bool:
        return time.monotonic() > end or (until is not None and until.exists())

    async def person(number: int) -> None:
        chance, browser = random.Random((plan.seed << 16) + number), Browser(plan, f"person{number}")
        kinds = list(plan.places)
        shares = [plan.places[kind][0] for kind in kinds]
        if plan.tour:
            for kind, path in [(k, a) for k, (_, some) in plan.places.items() for a in some][number :: plan.people]:
                for picture in browser.unseen(await asked(browser, kind, path)):
                    await asked(browser, "picture", picture)
            browser.close()
            return
        await asyncio.sleep(chance.random() * max(plan.think, 0.2))
        while not over():
            (kind,) = chance.choices(kinds, shares)
            body = await asked(browser, kind, chance.choice(plan.places[kind][1]))
            for picture in browser.unseen(body):
                await asked(browser, "picture", picture)
            if plan.think:
                await asyncio.sleep(min(chance.expovariate(1 / plan.think), 10 * plan.think))
        browser.close()

    async def asked(browser: Browser, kind: str, path: str) -> bytes:
        start = time.perf_counter()
        try:
            status, body = await browser.get(path)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.errors.append(f"{path}: {error!r}")
            return b""
        seen.times.setdefault(kind, []).append(time.perf_counter() - start)
        if status != 200:
            seen.errors.append(f"{path}: {status}")
        return body

    await asyncio.gather(*(person(number) for number in range(plan.people)))
    return seen


def address(path: str, **query: str) -> str:
    return path + ("?" + "&".join(f"{key}={quote(value)}" for key, value in query.items()) if query else "")


def main() -> None:
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asyncio.run(crowd(plan)).to_json()))


if __name__ == "__main__":
    main()
