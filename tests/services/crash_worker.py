"""The worker of the kill and concurrency campaigns: performs operations in a loop until it is killed or done.

    python -m tests.services.crash_worker URL HOME SEED COUNT

Prints one line per acknowledged operation, after it returned: ``add ID``, ``edit ID`` (of the version: its name may be
erased later), ``withdraw SUBJECT``, ``checkpoint SIZE``; ``denied STEP`` for one that policy or door refused. The
reader may rely on exactly what was printed.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select

from tests.services.small import ANY, Small
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import ConsentDenied, LikenessRefused, SecondPersonNeeded
from w2w_registry.services.audit import log
from w2w_registry.services.consent import withdraw
from w2w_registry.services.registry import Registry
from w2w_registry.settings import Settings


def attach(url: str, folder: Path, first: int = 0) -> Small:
    """A ``Small`` on a catalog that has its space already; its models are numbered from ``first`` on."""
    small = Small.__new__(Small)
    settings = Settings(folder / "home", url, "curator", str(folder / "home" / "artifacts"))
    small.registry = Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))
    small.url, small._count = url, first
    with small.registry.catalog.read() as session:
        small.space_id = session.scalars(select(Space.id)).one()
    return small


def forgotten(registry: Registry, subject: str, *, erase: bool) -> None:
    """Withdraw and forget a subject, which takes two people."""
    for actor in ("curator", "second curator"):
        asking = replace(registry, settings=replace(registry.settings, actor=actor))
        with suppress(SecondPersonNeeded):
            withdraw.withdraw(asking, subject, erase=erase, protect=False)
            return
    raise AssertionError("two people could not forget somebody")


def work(url: str, folder: Path, seed: int, count: int) -> None:
    """Perform ``count`` random operations under names that carry the seed."""
    small, rng = attach(url, folder, seed * 1_000_000), random.Random(seed)
    versions: list[int] = []
    for step in range(count):
        name, subject = f"w{seed}-{step}", f"w{seed}s{step % 7}"
        kind = rng.choice(["add", "add", "add", "edit", "edit", "withdraw", "checkpoint"])
        try:
            if kind == "edit" and versions:
                print("edit", small.derive(name, rng.choice(versions)), flush=True)
            elif kind == "withdraw" and versions:
                small.grant(subject, ANY)
                small.add(name, subject)
                forgotten(small.registry, subject, erase=rng.random() < 0.5)  # the door is not what crashes
                print("withdraw", subject, flush=True)
                versions = []
            elif kind == "checkpoint":
                print("checkpoint", log.checkpoint(small.registry)["size"], flush=True)
            else:
                small.grant(subject, ANY)
                versions.append(small.add(name, subject))
                print("add", versions[-1], flush=True)
        except (ConsentDenied, LikenessRefused, SecondPersonNeeded):
            print(
                "denied", step, flush=True
            )  # strangers come near one another in eight dimensions; the withdrawn stay out


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
