"""The identities of a public weights2weights release: points without files, with the release's labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.lookup import taken_names
from w2w_registry.catalog.models import InputKind
from w2w_registry.catalog.resolve import space_for
from w2w_registry.consent.records import Use
from w2w_registry.lora import model_digest
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door
from w2w_registry.services.recording.labels import Label, to_label
from w2w_registry.services.recording.likeness import of_theta
from w2w_registry.services.recording.newcomers import Newcomer, ask
from w2w_registry.services.recording.versions import Activity, Input, NewVersion, Recording, record_versions
from w2w_registry.services.registry import Progress, Registry
from w2w_registry.space.basis import WeightSpace

_CHUNK = 256


@dataclass(frozen=True)
class Points:
    """How many points were added, how many were left out because they draw somebody who refused, and what kept others
    from being compared by what they draw (None: nothing did, or nobody refused)."""

    added: int = 0
    refused: int = 0
    unseen: str | None = None


def add_points(
    registry: Registry,
    ref: str,
    prefix: str,
    space: WeightSpace,
    coordinates: NDArray[np.float32],
    labels: Mapping[str, list[Any]],
    progress: Progress,
) -> Points:
    """Add each row of ``coordinates`` (n, k) as identity ``prefix/<row>``, with its fingerprint where the base model is
    at hand; those who refused are left out.

    Rows whose identity is there already are left alone, so that an interrupted import can be run again.

    Raises:
        ConsentDenied: the policy does not let people of unknown consent be registered.
    """
    started = now()
    done = Points()
    for start in range(0, len(coordinates), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(coordinates)))
        with registry.catalog.read() as session:
            there = taken_names(session, [f"{prefix}/{i}" for i in rows])
        new = [i for i in rows if f"{prefix}/{i}" not in there]
        done = _recorded(registry, ref, prefix, space, coordinates, labels, new, started, done) if new else done
        progress(rows.stop, len(coordinates))
    return done


def _recorded(
    registry: Registry,
    ref: str,
    prefix: str,
    space: WeightSpace,
    coordinates: NDArray[np.float32],
    labels: Mapping[str, list[Any]],
    rows: Sequence[int],
    started: datetime,
    before: Points,
) -> Points:
    """Record these rows in one transaction, asked before it what each draws."""
    thetas = space.reconstruct(coordinates[rows])
    seen = ask(registry, [Newcomer(space.base_model, layout=space.layout, theta=theta) for theta in thetas])
    with registry.catalog.write(registry.actor) as uow:
        row = space_for(uow.session, ref)
        door = Door(registry, uow.session)
        gate.require(registry, Use.REGISTER, kind=Kind.PERSON, spaces=[row.id], session=uow.session)
        news = [
            NewVersion(
                name=f"{prefix}/{i}",
                kind=Kind.PERSON,
                space_id=row.id,
                model_digest=model_digest(theta, space.layout),
                coordinates=coordinates[i],
                base_model=space.base_model,
                likeness=replace(of_theta(theta, space.layout), prints=asked.prints),
                base_revision=space.base_revision,
                labels=_labels(labels, i),
            )
            for i, theta, asked in zip(rows, thetas, seen, strict=True)
        ]
        likenesses, points = [new.likeness for new in news], [{row.id: coordinates[i]} for i in rows]
        refused = door.refuses(likenesses, points, [new.model_digest for new in news])
        there = taken_names(uow.session, [new.name for new in news])  # another import may have been at it meanwhile
        kept = [place for place, no in enumerate(refused) if not no and news[place].name not in there]
        unseen = next((seen[i].why for i in kept if not door.compares(likenesses[i])), None)
        inputs = [Input("space", InputKind.SPACE, digest=row.digest, ref=row.ref)]
        made = [Activity(OperationKind.IMPORT, started, {"row": rows[i]}, inputs) for i in kept]
        admitted = door.admit_all([news[i] for i in kept], made)
        recordings = [Recording(news[i], *each) for i, each in zip(kept, zip(made, admitted, strict=True), strict=True)]
        record_versions(uow, recordings)
    return Points(before.added + len(kept), before.refused + sum(refused), before.unseen or unseen)


def _labels(columns: Mapping[str, list[Any]], row: int) -> dict[str, Label]:
    found: dict[str, Label] = {}
    for name, values in columns.items():
        value = values[row]
        if isinstance(value, bool):
            found[str(name)] = float(value)
        elif isinstance(value, (int, float)):
            if math.isfinite(value):
                found[str(name)] = float(value)
        elif value is not None:
            found[str(name)] = to_label(str(value))
    return found
