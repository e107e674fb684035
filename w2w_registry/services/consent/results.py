"""Holding models at the door that are drawn or leave without becoming versions: an edit, a space's mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from w2w_registry.services.consent.door import Door
from w2w_registry.services.recording.likeness import of_theta
from w2w_registry.services.recording.newcomers import Newcomer, ask
from w2w_registry.services.registry import Registry
from w2w_registry.space.layout import Layout


def hold_models(
    registry: Registry,
    layout: Layout,
    thetas: Sequence[NDArray[np.float32]],
    *,
    base_model: str,
    path: str,
    pipeline: str | None = None,
) -> None:
    """Raise unless none of the models, θ (D,) each, is somebody who refused. ``path``: what to call them.

    Raises:
        LikenessRefused, SettingError.
    """
    with registry.catalog.read() as session:
        if not Door(registry, session).anybody:
            return
    newcomers = [Newcomer(base_model, layout=layout, theta=theta) for theta in thetas]
    drawn = ask(registry, newcomers, pipeline)
    with registry.catalog.read() as session:
        door = Door(registry, session)
        for theta, answer in zip(thetas, drawn, strict=True):
            door.hold(replace(of_theta(theta, layout), prints=answer.prints), {}, path=path)
