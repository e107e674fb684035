"""Sketches for versions that an earlier release recorded without one."""

from __future__ import annotations

from w2w_registry.catalog.likeness import WeightsSketch, without_sketch
from w2w_registry.services.recording.equivalents import stored_likeness
from w2w_registry.services.recording.versions import sketches_values
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.space.sketch import KIND

_CHUNK = 256


def complete(registry: Registry, progress: Progress = no_progress) -> int:
    """Compute the weights sketch of every version that has none and can have one; returns how many were added.

    What cannot be read (a damaged or lost file) is left out, for ``verify`` to say; run again, it goes on from there.
    """
    added, last = 0, 0
    while True:
        with registry.catalog.read() as session:
            versions = without_sketch(session, KIND, last, _CHUNK)
            drawn = {v.id: stored_likeness(registry, session, v).sketch for v in versions}
        if not drawn:
            return added
        last = max(drawn)
        found = {version_id: sketch for version_id, sketch in drawn.items() if sketch is not None}
        if found:
            with registry.catalog.write(registry.actor) as uow:
                rows = zip(found, sketches_values(list(found.values())), strict=True)
                uow.add_all([WeightsSketch(version_id=i, **values) for i, values in rows])
                uow.event("sketch.add", {"version": sorted(found)})
        added += len(found)
        progress(added, added)
