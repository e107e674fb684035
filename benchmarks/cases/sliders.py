"""Sliders of the gallery: from a slider moved to the picture of it, on the mini world, one core.

The registry is the mini world's (its first 200 LoRAs, a space, a direction for every attribute) and one person who
agreed to be edited. Each time another slider stands somewhere else; what is timed is what a browser waits for: the
request that says where the sliders stand, and the picture. Asked again, the picture is given again.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fastapi.testclient import TestClient

from benchmarks.cases.gallery import HOST, TOKEN, at, holds
from benchmarks.frame import Row
from examples.miniworld.unpack import unpack
from w2w_registry.cli.app import main as typed
from w2w_registry.services.registry import open_registry
from w2w_registry.services.synthesis.engine import WarmEngine
from w2w_registry.settings import load_settings
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app
from w2w_registry.web.limits import Limits

SOMEBODY = "p1000"


def rows(small: bool) -> Iterator[Row]:
    """A slider moved forty times (ten when small)."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = prepared(Path(folder), 100 if small else 200)
        with open_registry(load_settings(home)) as registry:
            engine = WarmEngine(pipeline=str(Path(folder) / "world" / "pipeline"))
            app = create_app(
                registry, Access(TOKEN, "bench"), frozenset({HOST}), limits=Limits(rate=1e6, burst=10**6), engine=engine
            )
            headers = {"authorization": f"Bearer {TOKEN}", "origin": f"http://{HOST}"}
            with TestClient(app, base_url=f"http://{HOST}", headers=headers) as client:
                yield row(client, 10 if small else 40)


def prepared(folder: Path, count: int) -> Path:
    """The mini world as a registry, made by the commands a person would type."""
    world, home = folder / "world", folder / "home"
    unpack(world, loras=count, photos=False)
    for words in (
        ["init"],
        ["space", "fit", "faces", world / "loras", "--base-model", "miniworld"],
        ["add", world / "loras", "--labels", world / "labels.csv", "--yes"],
        ["direction", "fit", "--all"],
        ["consent", "grant", "s-1", "--purpose", "any", "--derivatives"],
        ["add", world / "heldout" / SOMEBODY, "--name", "somebody", "--subject", "s-1"],
    ):
        try:
            typed(["--home", str(home), *map(str, words)])
        except SystemExit as done:
            if done.code:
                raise RuntimeError(f"w2w-reg {' '.join(map(str, words))} failed") from done
    return home


def row(client: TestClient, rounds: int) -> Row:
    sliders = ("beard", "hat", "glasses", "skin")
    moved(client, "beard", 0.5)  # the base model is opened, as `serve --pipeline` does when it starts
    stands = [(sliders[i % len(sliders)], 1.0 + i / 20) for i in range(rounds)]
    drawn = [moved(client, *one) for one in stands]
    again = [moved(client, *one) for one in stands]
    where = statistics.median(said for said, _, _ in drawn)
    return Row(
        "gallery: slider to picture, p95",
        at(sorted(wall for _, wall, _ in drawn), 0.95),
        None,
        "",
        {
            "median": statistics.median(wall for _, wall, _ in drawn),
            "CPU": statistics.median(cpu for _, _, cpu in drawn),
            "where it leads": where,
            "again, p95": at(sorted(wall for _, wall, _ in again), 0.95),
            "again CPU": statistics.median(cpu for _, _, cpu in again),
            "holds": holds(
                at(sorted(wall for _, wall, _ in drawn), 0.95) <= 1.5
                and at(sorted(wall for _, wall, _ in again), 0.95) <= 0.05
            ),
        },
        {"moves": rounds, "threads": 1},
    )


def moved(client: TestClient, slider: str, amount: float) -> tuple[float, float, float]:
    """Seconds until it is said where a slider leads, until its picture is there, and of this process's work."""
    start, work = time.perf_counter(), time.process_time()
    asked = client.post("/make/pictures", data={"from": "somebody@1", f"d.{slider}": f"{amount:.2f}", "seed": "1"})
    said = time.perf_counter() - start
    assert asked.status_code == 200, asked.text
    picture = client.get(f"/make/pictures/{asked.json()['job']}")
    assert picture.headers["content-type"] == "image/png", picture.text
    return said, time.perf_counter() - start, time.process_time() - work
