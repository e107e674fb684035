"""The models that weight spaces are made around, and what they draw: taken once, where the base model is at hand."""

from __future__ import annotations

import time
from collections.abc import Collection

import numpy as np

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.models import Space, SpaceFingerprint
from w2w_registry.services.recording.newcomers import Newcomer, ask, can_ask
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.registry import Registry


def see(
    registry: Registry,
    space_ids: Collection[int],
    places: Collection[tuple[str, str]] = (),
    pipeline: str | None = None,
) -> None:
    """Take and keep the fingerprints of the centres of these spaces that have none, or none of ``places`` (base model
    and question) when there are some; nothing is done where the base model is not at hand.

    Raises:
        NotFound, DeviceError, UsageError: ``pipeline`` cannot be opened.
    """
    with registry.catalog.read() as session:
        has: dict[int, set[tuple[str, str]]] = {}
        for kept in stored.of_spaces(session, space_ids):
            has.setdefault(kept.space_id, set()).add((kept.base, kept.question))
        lacking = [i for i in sorted(set(space_ids)) if not has.get(i) or (places and not has[i] & set(places))]
        rows = [session.get_one(Space, space_id) for space_id in lacking]
    for row in rows:
        if not can_ask(registry, row.base_model, pipeline):
            continue
        space = load_space(registry.artifacts, row)
        newcomers = [Newcomer(row.base_model, layout=space.layout, theta=theta) for theta in space.centres()]
        began = time.perf_counter()
        taken = [(part, one) for part, answer in enumerate(ask(registry, newcomers, pipeline)) for one in answer.prints]
        took = round(time.perf_counter() - began, 3)
        if not taken:
            continue
        with registry.catalog.write(registry.actor) as uow:
            there = {(kept.part, kept.base, kept.question) for kept in stored.of_spaces(uow.session, [row.id])}
            new = [(part, one) for part, one in taken if (part, one.base, one.question) not in there]
            for part, one in new:
                data = np.ascontiguousarray(one.values, "<f4").tobytes()
                uow.add(SpaceFingerprint(space_id=row.id, part=part, base=one.base, question=one.question, data=data))
            if new:
                uow.event("fingerprint.take", {"space": row.id}, base=new[0][1].base, count=len(new), seconds=took)
