"""``add --translate``: adapters whose weights fit no space get coordinates by what they make the base model draw.

The original file is registered as it is; its coordinates are those of the point that predicts what it predicts, and the
residual is the share of its behaviour that the point does not reproduce. The operation says how they were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog import vectors
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.resolve import version_for
from w2w_registry.errors import RegistryError
from w2w_registry.lora import Candidate, read_adapter
from w2w_registry.services.identities.foreseeing import at_the_door
from w2w_registry.services.identities.items import AddReport, AddRequest, Item, meant
from w2w_registry.services.identities.unplaced import Point, add_unplaced
from w2w_registry.services.recording.equivalents import known_adapter
from w2w_registry.services.recording.fingerprints import Prober, keep, open_prober
from w2w_registry.services.recording.likeness import of_adapter
from w2w_registry.services.recording.pipelines import to_open
from w2w_registry.services.recording.sources import TRANSLATION, space_input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.space.basis import WeightSpace

if TYPE_CHECKING:
    from w2w_registry.diffusion.adapters import Adapter
    from w2w_registry.diffusion.translate import Ridge

AT_ONCE: Final = 8
TAUGHT: Final = 1000
"""Adapters translated side by side; registered people that the regression learns from, at most."""
HIGH: Final = 0.5


def add(
    registry: Registry,
    request: AddRequest,
    pipeline: str | None = None,
    device: Any = "auto",
    progress: Progress = no_progress,
) -> AddReport:
    """Register adapters with translated coordinates in ``request.space`` (or the default one).

    Raises:
        NotFound, MissingExtra, DeviceError: no such space, no base model, no torch. SpaceMismatch: the base model is
        not the space's. UsageError: too few registered to learn from, or the request itself. ConsentDenied.
    """
    asked = meant(registry, request)
    row, space, candidates = asked.row, asked.space, asked.candidates
    fresh, done = _fresh(registry, request, candidates)
    prints: dict[str, NDArray[np.float32]] = {}
    prober: Prober | None = None
    points: dict[Path, Point] = {}
    if fresh and not request.dry_run:
        name, local = to_open(registry, space.base_model, pipeline)
        prober = open_prober(name, device=device, local=local)
        prober.model.bank(space.layout)  # says so now when the base model is another
        with registry.catalog.read() as session:
            ridge, taught = _learned(session, prober, row, space)
        for start in range(0, len(fresh), AT_ONCE):
            part = fresh[start : start + AT_ONCE]
            found, failed = _translated(prober, ridge, row, space, part, taught, prints)
            points |= found
            done |= failed
            progress(min(start + AT_ONCE, len(fresh)), len(fresh))
    if request.dry_run:
        new = [Item(str(c.path), "added", request.prefix + c.name) for c in fresh]
        done |= {item.path: item for item in at_the_door(registry, request, new, fresh, row.id)}
    else:
        todo = [c for c in candidates if str(c.path) not in done]
        done |= {item.path: _told(item) for item in add_unplaced(registry, request, todo, asked.labels, points)}
    if prober is not None:
        _keep(registry, prober, prints, done)
    return AddReport(row.ref, tuple(done[str(candidate.path)] for candidate in candidates))


def _fresh(
    registry: Registry, request: AddRequest, candidates: Sequence[Candidate]
) -> tuple[list[Candidate], dict[str, Item]]:
    """Adapters that are not there yet, and what is to be said of those that cannot be read. Known ones are left to
    the recording, which says so."""
    fresh, failed = [], {}
    with registry.catalog.read() as session:
        for candidate in candidates:
            try:
                adapter = read_adapter(candidate.path)
            except RegistryError as error:
                path = str(candidate.path)
                failed[path] = Item(path, "failed", request.prefix + candidate.name, error=error)
                continue
            known = known_adapter(registry, session, adapter, of_adapter(adapter))
            if known is None:
                fresh.append(candidate)
    return fresh, failed


def _learned(session: Session, prober: Prober, row: Space, space: WeightSpace) -> tuple[Ridge, int]:
    """The regression from fingerprints to coordinates, and how many registered of the space it was learned from.

    Fingerprints that were taken are used as they are; where there are too few, the points themselves are asked.
    """
    from w2w_registry.diffusion.fingerprint import of_thetas
    from w2w_registry.diffusion.translate import LEAST, fit_ridge, too_few

    placed = vectors.matrix(session, row.id)
    answers = stored.answers(session, prober.base, prober.question)
    at = {int(version): n for n, version in enumerate(placed.ids)}
    both = [n for n, version in enumerate(answers.versions) if int(version) in at][:TAUGHT]
    if len(both) >= max(LEAST, min(len(at), TAUGHT) // 2):
        prints = answers.matrix[both]
        points = placed.matrix[[at[int(answers.versions[n])] for n in both]]
    else:
        if len(at) < LEAST:  # before anybody is asked
            raise too_few(len(at))
        points = placed.matrix[:TAUGHT]
        thetas = space.reconstruct(points)
        prints = of_thetas(prober.model, space.layout, thetas, prober.prompt, probes=prober.probes)
    spread = np.maximum(space.component_std, 1e-6 * float(space.component_std.max()))
    return fit_ridge(prints, np.asarray(points / spread, np.float32)), len(points)


def _translated(
    prober: Prober,
    ridge: Ridge,
    row: Space,
    space: WeightSpace,
    candidates: Sequence[Candidate],
    taught: int,
    prints: dict[str, NDArray[np.float32]],
) -> tuple[dict[Path, Point], dict[str, Item]]:
    """Where each lies, and why the others have no place; ``prints`` gets their fingerprints, by path."""
    from w2w_registry.diffusion.adapters import read_adapter as readable
    from w2w_registry.diffusion.invert import SpaceBasis
    from w2w_registry.diffusion.pipeline import fast_bf16
    from w2w_registry.diffusion.translate import TranslateConfig, translate

    model = prober.model
    config = TranslateConfig()
    config = replace(config, walk=replace(config.walk, bf16=fast_bf16(model.device)))
    read: list[tuple[Candidate, Adapter]] = []
    failed: dict[str, Item] = {}
    for candidate in candidates:
        path = str(candidate.path)
        try:
            adapter = readable(candidate.path)
            prints[path] = prober.of_adapters([adapter])[0]
            read.append((candidate, adapter))
        except RegistryError as error:
            failed[path] = Item(path, "failed", candidate.name, error=error)
    if not read:
        return {}, failed
    basis = SpaceBasis.of(
        space.layout, space.mean, space.std, space.components, space.component_std, device=model.device
    )
    start = ridge(np.stack([prints[str(candidate.path)] for candidate, _ in read]))
    found = translate(
        model, basis, [a for _, a in read], model.encode_text(prober.prompt), prober.prompt, start, config
    )
    models = {**model.versions(), **model.parts}
    points = {}
    for place, ((candidate, _), one) in enumerate(zip(read, found, strict=True)):
        params = {
            "config": config.to_json(),
            "prompt": prober.prompt,
            "question": prober.question,
            "learned_from": taught,
            "in_batch": len(read),
            "place_in_batch": place,
            "started_at_residual": one.started,
            "steps": one.steps,
        }
        points[candidate.path] = Point(
            row.id, one.coordinates, one.residual, {TRANSLATION: params}, (space_input(row),), models
        )
    return points, failed


def _told(item: Item) -> Item:
    if item.status == "existing" and item.residual is None:
        return replace(item, warnings=(*item.warnings, "already registered: its coordinates stay what they are"))
    if item.status != "added" or item.residual is None:
        return item
    said = f"translated: its coordinates leave {item.residual:.0%} of what it makes the base model predict"
    if item.residual > HIGH:
        said += "; the space hardly knows whom it draws"
    return replace(item, warnings=(*item.warnings, said))


def _keep(registry: Registry, prober: Prober, prints: dict[str, NDArray[np.float32]], done: dict[str, Item]) -> None:
    """Keep the fingerprints of those that were recorded."""
    with registry.catalog.read() as session:
        ids = {path: version_for(session, f"{item.identity}@{item.version}").id
               for path, item in done.items() if item.status == "added" and path in prints}  # fmt: skip
    if ids:
        keep(registry, prober, list(ids.values()), np.stack([prints[path] for path in ids]))
