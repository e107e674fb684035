"""Holding models at the door that are drawn or leave without becoming versions: an edit, a point, a space's mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from w2w_registry.consent.reasons import Reason, ReasonCode
from w2w_registry.errors import ConsentDenied
from w2w_registry.services.consent import made_in
from w2w_registry.services.consent.door import Door, refusal
from w2w_registry.services.consent.second_person import wanted
from w2w_registry.services.recording import centres as looked
from w2w_registry.services.recording.likeness import of_theta
from w2w_registry.services.recording.newcomers import Newcomer, ask
from w2w_registry.services.recording.sources import Source
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.layout import Layout


def hold_models(
    registry: Registry,
    layout: Layout,
    thetas: Sequence[NDArray[np.float32]],
    *,
    base_model: str,
    path: str,
    pipeline: str | None = None,
    centres: bool = False,
) -> bool:
    """Raise unless none of the models, θ (D,) each, is somebody who refused; whether all that could be compared was.

    Args:
        path: what to call them. centres: they are what a space is made around.

    Raises:
        LikenessRefused, SettingError.
    """
    with registry.catalog.read() as session:
        if not Door(registry, session).anybody:
            return True
    newcomers = [Newcomer(base_model, layout=layout, theta=theta) for theta in thetas]
    drawn = ask(registry, newcomers, pipeline)
    likenesses = [
        replace(of_theta(theta, layout), prints=answer.prints) for theta, answer in zip(thetas, drawn, strict=True)
    ]
    with registry.catalog.read() as session:
        door = Door(registry, session)
        if not centres:
            for likeness in likenesses:
                door.hold(likeness, {}, path=path)
        else:
            for met in door.meets_centres(likenesses):
                if met is not None and met.refused:
                    raise refusal(path, met)
        return all(door.compares(likeness) for likeness in likenesses)


def hold_point(
    registry: Registry, origin: Source, space: WeightSpace, *, operation: str, pipeline: str | None = None
) -> None:
    """Raise unless a version's point in its space may leave instead of the LoRA it is kept as. What was recorded of the
    version is what that LoRA draws, so the point is compared itself, and what the space is made around.

    Raises:
        LikenessRefused, SettingError. ConsentDenied: what it draws cannot be compared here.
    """
    what = f"{origin.ref} from its coordinates"
    seen = hold_models(
        registry,
        space.layout,
        [space.reconstruct(origin.coordinates)],
        base_model=space.base_model,
        path=what,
        pipeline=pipeline,
    )
    with registry.catalog.read() as session:
        places = Door(registry, session).places
    looked.see(registry, [origin.space_id], places, pipeline)
    with registry.catalog.read() as session:
        door = Door(registry, session)
        for met in made_in.refused(registry, session, door, [origin.space_id]).values():
            raise refusal(what, met)
        if not seen and wanted(registry, session):
            reason = Reason(
                ReasonCode.UNCOMPARED, None, detail="its base model is not on this machine", through=origin.ref
            )
            raise ConsentDenied(operation=operation, purpose=None, reasons=(str(reason),), subjects=(), ways_out=())
