"""What a pulled release says of itself, held against what it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog.models import Space
from w2w_registry.catalog.vectors import unpack
from w2w_registry.errors import BadFile, IntegrityError, SpaceMismatch
from w2w_registry.hub import bundle
from w2w_registry.hub.addresses import address_of
from w2w_registry.hub.api import RepoState
from w2w_registry.hub.bundle import Document
from w2w_registry.hub.safety import shorten
from w2w_registry.lora import LoraFile, model_digest
from w2w_registry.records import Kind
from w2w_registry.services.hub.pulling import PullRequest
from w2w_registry.services.recording.placement import place, same_model_id
from w2w_registry.space.basis import WeightSpace

TOLERANCE = 1e-3
"""How far coordinates may be from their weights' projection, relative: other machines sum in another order."""


def check_card(state: RepoState, ref: str, space: WeightSpace, said: str | None) -> tuple[str, ...]:
    """Hold the card's base model against the space's; silence is worth a warning.

    Raises:
        SpaceMismatch: the card names another base model.
    """
    base = said or card_base(state)
    if base is None:
        return (f"its card names no base model; taken to be {space.base_model}",)
    if not same_model_id(base, space.base_model):
        raise SpaceMismatch(
            path=address_of(state.repo_id),
            space=ref,
            differences=(f"its card says the base model is {base}, the space's is {space.base_model}",),
            hint="say [[base-model]] if it is the same model under another name",
        )
    return ()


def card_base(state: RepoState) -> str | None:
    base = state.card.get("base_model")
    if isinstance(base, (list, tuple)):
        base = base[0] if len(base) == 1 else None
    return base if isinstance(base, str) and base else None


def check_document(document: Document, row: Space, space: WeightSpace, where: str) -> NDArray[np.float32]:
    """The coordinates, when they can be a point of the space.

    Raises:
        IntegrityError, BadFile.
    """
    if document.layout_digest != row.layout_digest:
        raise IntegrityError(
            what="layout", name=f"{where}/{bundle.DOCUMENT}", expected=row.layout_digest, found=document.layout_digest
        )
    coordinates = unpack(document.coordinates)
    if len(coordinates) != space.k or not np.isfinite(coordinates).all():
        raise BadFile(path=f"{where}/{bundle.DOCUMENT}", reason=f"its coordinates are not {space.k} finite numbers")
    return coordinates


def check_weights(
    lora: LoraFile, document: Document, coordinates: NDArray[np.float32], space: WeightSpace, ref: str, where: str
) -> None:
    """Hold the weights against the coordinates and the model digest: nobody may change one without the other.

    Raises:
        IntegrityError, SpaceMismatch.
    """
    placed = place(lora, space, ref, document.base_model)
    own = space.layout.flatten(lora.tensors) if lora.layout() == space.layout else placed.own
    digest = model_digest(own, space.layout)
    # An imported LoRA of another rank is published as it came in; its place is where the gauge puts it, which may
    # differ in its last bits from one machine to the next.
    if digest != document.model_digest and placed.gauge != "gauge":
        raise IntegrityError(what="model", name=where, expected=document.model_digest, found=digest)
    projected = space.project(placed.theta).astype(np.float64)
    distance = float(np.linalg.norm(projected - coordinates))
    scale = max(float(np.linalg.norm(projected)), float(np.linalg.norm(coordinates)), 1e-12)
    if not distance <= TOLERANCE * scale:
        raise IntegrityError(
            what="coordinates",
            name=f"{where}/{bundle.DOCUMENT}",
            expected="the point its weights are at",
            found=f"one {distance / scale:.1%} away",
        )


def kind_of(request: PullRequest, said: str, where: str) -> Kind:
    """The kind that was asked for, else what the release says.

    Raises:
        BadFile: that is none.
    """
    if request.kind is not None:
        return Kind.parse(request.kind)
    try:
        return Kind(said)
    except ValueError:
        raise BadFile(path=f"{where}/{bundle.DOCUMENT}", reason=f"unknown kind {shorten(said, 40)!r}") from None
