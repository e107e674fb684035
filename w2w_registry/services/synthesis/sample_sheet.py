"""Contact sheets of samples: each new identity drawn once, marked and on record as every picture is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Use
from w2w_registry.records import Result
from w2w_registry.services.consent import gate
from w2w_registry.services.recording import pictures as outgoing
from w2w_registry.services.recording.outputs import check_outputs, write_outputs
from w2w_registry.services.recording.pictures import Outgoing
from w2w_registry.services.recording.sources import open_space_of, source, theta_of
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis.engine import PROMPT, Engine, require_diffusion
from w2w_registry.services.synthesis.new_versions import Permission

ACROSS: Final = 8
"""Pictures in a row."""


def check_sheet(registry: Registry, path: Path, *, force: bool = False) -> None:
    """Ask, before anything is recorded, whether a sheet can be drawn and written.

    Raises:
        MissingExtra: no diffusion here. OutputExists, OutputInHome.
    """
    require_diffusion()
    check_outputs(registry, path, force=force)


@dataclass(frozen=True, eq=False)
class SheetDrawn(Result):
    """A contact sheet that was written."""

    sheet: str
    pictures: int


def write_sheet(
    registry: Registry,
    refs: Sequence[str],
    path: Path,
    *,
    steps: int = 30,
    seed: int = 1,
    purpose: str | None = None,
    engine: Engine | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> SheetDrawn:
    """Draw identities of one space, once each with the same seed, into one PNG.

    Raises:
        ConsentDenied, NotFound, DeviceError, StorageError, MissingExtra; OutputExists, OutputInHome.
    """
    began = time.perf_counter()
    check_sheet(registry, path, force=force)
    from w2w_registry.diffusion.generate import Recipe, Shot, draw
    from w2w_registry.diffusion.images import contact_sheet

    with registry.catalog.read() as session:
        origins = [source(session, version_for(session, ref)) for ref in refs]
        ids = [origin.version_id for origin in origins]
        permission = Permission(Use.GENERATE, versions=ids, purpose=purpose)
        permission.require(registry, session)
        row, space = open_space_of(registry, session, origins[0].space_id)
        thetas = [theta_of(registry, origin, space, row.ref, from_coordinates=False) for origin in origins]
    model = (engine or Engine()).open(registry, space)
    recipe = Recipe(PROMPT, None, steps, None, None, None)
    drawn = draw(model, space.layout, [Shot(theta, seed, None) for theta in thetas], recipe, progress=progress)
    rows = [list(drawn[i : i + ACROSS]) for i in range(0, len(drawn), ACROSS)]
    labels = [", ".join(origin.ref for origin in origins[i : i + ACROSS]) for i in range(0, len(origins), ACROSS)]
    about = {"ai_generated": True, "space": row.ref, "seed": seed, "prompt": PROMPT, "steps": steps}
    pixels = contact_sheet(rows, row_labels=[label[:40] for label in labels])
    (ready,) = outgoing.prepare(registry, [Outgoing(pixels, about, path.name, "sample", tuple(ids), seed)])
    with registry.catalog.write(registry.actor) as uow:
        decision = permission.require(registry, uow.session)
        facts = {"pictures": 1, "seeds": [seed], **gate.evidence(decision), **outgoing.record(uow, [ready])}
        uow.event("version.generate", {"version": ids}, seconds=round(time.perf_counter() - began, 3), **facts)
    write_outputs(registry, {path: ready.data}, force=force)
    return SheetDrawn(sheet=str(path), pictures=len(drawn))
