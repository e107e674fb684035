"""The identities of a public weights2weights release: points without files, with the release's labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from w2w_registry.services.recording.versions import Activity, Input, NewVersion, Recording, record_versions
from w2w_registry.services.registry import Progress, Registry
from w2w_registry.space.basis import WeightSpace

_CHUNK = 256


def add_points(
    registry: Registry,
    ref: str,
    prefix: str,
    space: WeightSpace,
    coordinates: NDArray[np.float32],
    labels: Mapping[str, list[Any]],
    progress: Progress,
) -> int:
    """Add each row of ``coordinates`` (n, k) as identity ``prefix/<row>``; returns how many were added.

    Rows whose identity is there already are left alone, so that an interrupted import can be run again.

    Raises:
        ConsentDenied: the policy does not let people of unknown consent be registered.
    """
    started = now()
    added = 0
    for start in range(0, len(coordinates), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(coordinates)))
        thetas = space.reconstruct(coordinates[rows.start : rows.stop])
        with registry.catalog.write(registry.actor) as uow:
            row = space_for(uow.session, ref)
            door = Door(registry, uow.session)
            gate.require(registry, Use.REGISTER, kind=Kind.PERSON, spaces=[row.id], session=uow.session)
            there = taken_names(uow.session, [f"{prefix}/{i}" for i in rows])
            inputs = [Input("space", InputKind.SPACE, digest=row.digest, ref=row.ref)]
            news = {
                i: NewVersion(
                    name=f"{prefix}/{i}",
                    kind=Kind.PERSON,
                    space_id=row.id,
                    model_digest=model_digest(theta, space.layout),
                    coordinates=coordinates[i],
                    base_model=space.base_model,
                    likeness=of_theta(theta, space.layout),
                    base_revision=space.base_revision,
                    labels=_labels(labels, i),
                )
                for i, theta in zip(rows, thetas, strict=True)
                if f"{prefix}/{i}" not in there
            }
            made = [Activity(OperationKind.IMPORT, started, {"row": i}, inputs) for i in news]
            admitted = door.admit_all(list(news.values()), made)
            record_versions(uow, [Recording(*each) for each in zip(news.values(), made, admitted, strict=True)])
            added += len(news)
        progress(rows.stop, len(coordinates))
    return added


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
