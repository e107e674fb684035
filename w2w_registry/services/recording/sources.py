"""Registered versions as starting points: who, in which space, at which coordinates, from which LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import labels_of
from w2w_registry.catalog.models import Coordinates, Identity, InputKind, Space, Version
from w2w_registry.catalog.vectors import unpack
from w2w_registry.errors import NotFound, UsageError
from w2w_registry.lora import Beside, read_lora
from w2w_registry.records import Kind
from w2w_registry.services.recording.placement import place
from w2w_registry.services.recording.spaces import load_space, no_space
from w2w_registry.services.recording.versions import Input
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace

Vector = NDArray[np.float32]


TRANSLATION: Final = "translation"
"""The parameter of an operation that found coordinates for an adapter by what it makes the base model predict."""


@dataclass(frozen=True, eq=False)
class Source:
    """A registered version as a starting point: who, in which space, at which coordinates (k,). ``artifact_digest``
    names its LoRA, where that is of the space's layout."""

    version_id: int
    ref: str
    kind: Kind
    space_id: int
    coordinates: Vector
    artifact_digest: str | None
    labels: Mapping[str, float | str] = field(default_factory=dict)

    def input(self, role: str) -> Input:
        return Input(role, InputKind.VERSION, version_id=self.version_id, ref=self.ref)


def source(session: Session, version: Version, space: Space | None = None) -> Source:
    """The version with its coordinates in ``space`` (in its own space by default).

    Raises:
        UsageError: the version has no coordinates there.
    """
    space_id = version.space_id if space is None else space.id
    identity = session.get_one(Identity, version.identity_id)
    ref = f"{identity.name}@{version.number}"
    if space_id is None:
        raise no_space(ref)
    row = session.get(Coordinates, (space_id, version.id))
    if row is None:
        where = session.get_one(Space, space_id).ref
        raise UsageError(reason=f"{ref} has no coordinates in {where}")
    labels = labels_of(session, [version.id]).get(version.id, {})
    return Source(version.id, ref, identity.kind, space_id, unpack(row.data), own_lora(version), labels)


def own_lora(version: Version) -> str | None:
    """The stored LoRA (artifact digest) that a version is in its space: None of one that was translated, whose file
    speaks of other layers, ranks or starts, and whose coordinates are all the space has of it."""
    return None if TRANSLATION in version.operation.params else version.artifact_digest


def theta_of(registry: Registry, origin: Source, space: WeightSpace, ref: str, *, from_coordinates: bool) -> Vector:
    """θ (D,) of a version: of the LoRA it came as, or of its point in the space when that is all there is (or asked).

    The LoRA's own numbers, if it has the space's rank: ``space.in_gauge`` writes them as the space does.

    Raises:
        NotFound, IntegrityError: its file is gone or damaged.
    """
    if from_coordinates or origin.artifact_digest is None:
        return space.reconstruct(origin.coordinates)
    with registry.artifacts.local(origin.artifact_digest) as path:
        return place(read_lora(path), space, ref, space.base_model).own


def beside_of(registry: Registry, origin: Source) -> tuple[tuple[Beside, ...], tuple[str, ...]]:
    """A version's shares in other parts of the pipeline than the denoiser, and what else its file holds that a LoRA
    in another form could not say.

    Raises:
        NotFound, IntegrityError: its file is gone or damaged.
    """
    if origin.artifact_digest is None:
        return (), ()
    with registry.artifacts.local(origin.artifact_digest) as path:
        lora = read_lora(path)
    return lora.beside, lora.left


def open_space_of(registry: Registry, session: Session, space_id: int) -> tuple[Space, WeightSpace]:
    """The row and arrays of a space by id."""
    row = session.get_one(Space, space_id)
    return row, load_space(registry.artifacts, row)


def space_input(space: Space) -> Input:
    """The space as an input of an operation."""
    return Input("space", InputKind.SPACE, digest=space.digest, ref=space.ref)


def same_space(sources: Sequence[Source]) -> int:
    """The one space all sources live in.

    Raises:
        UsageError: they live in different spaces.
    """
    spaces = {s.space_id for s in sources}
    if len(spaces) > 1:
        raise UsageError(reason=f"{', '.join(s.ref for s in sources)} live in different weight spaces")
    if not spaces:
        raise NotFound(what="identity", name="(none given)")
    return spaces.pop()
