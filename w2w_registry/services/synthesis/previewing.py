"""Pictures for versions that came without one: drawn with the base model, and kept as previews are."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from typing import Any, Final

from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Use
from w2w_registry.errors import Conflict
from w2w_registry.records import Result
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.made_in import look
from w2w_registry.services.recording.sources import open_space_of, source, theta_of
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis.engine import PROMPT, Engine, require_diffusion
from w2w_registry.services.synthesis.new_versions import Permission

SIDE: Final = 256
STEPS: Final = 20


@dataclass(frozen=True)
class PreviewRequest:
    """Whose picture is to be drawn, and how. ``replace_existing``: also of one that has a picture."""

    ref: str
    prompt: str = PROMPT
    seed: int = 1
    steps: int = STEPS
    replace_existing: bool = False
    purpose: str | None = None
    engine: Engine = field(default_factory=Engine)


@dataclass(frozen=True, eq=False)
class PreviewDrawn(Result):
    """The preview that was drawn of a version."""

    version: str
    preview: str
    warnings: list[str]


def draw_preview(registry: Registry, request: PreviewRequest) -> PreviewDrawn:
    """Draw a version and keep the picture as its preview: shown in lists, marked whenever it leaves.

    Raises:
        Conflict: it has a picture. ConsentDenied, NotFound, DeviceError, MissingExtra, UsageError.
    """
    require_diffusion()
    from w2w_registry.diffusion.generate import Recipe, Shot, draw

    began = time.perf_counter()
    recipe = Recipe(request.prompt, steps=request.steps)
    recipe.check()
    with registry.catalog.read() as session:
        version = version_for(session, request.ref)
        _check(request, version.preview_digest)
        origin = source(session, version)
    look(registry, [origin.version_id], request.engine.pipeline)
    with registry.catalog.read() as session:
        permission = Permission(Use.GENERATE, versions=[origin.version_id], purpose=request.purpose)
        permission.require(registry, session)
        row, space = open_space_of(registry, session, origin.space_id)
        theta = theta_of(registry, origin, space, row.ref, from_coordinates=False)
    model = request.engine.open(registry, space)
    (pixels,) = draw(model, space.layout, [Shot(theta, request.seed)], recipe)
    digest = registry.artifacts.put(_small(pixels))
    with registry.catalog.write(registry.actor) as uow:
        decision = permission.require(registry, uow.session)
        version = version_for(uow.session, origin.ref)
        _check(request, version.preview_digest)
        version.preview_digest = digest
        facts = {"digest": digest, "seed": request.seed, "steps": request.steps, "models": model.versions()}
        facts["seconds"] = round(time.perf_counter() - began, 3)
        uow.event("preview.draw", {"version": version.id}, **facts, **gate.evidence(decision))
    return PreviewDrawn(version=origin.ref, preview=digest, warnings=[str(w) for w in decision.warnings])


def _check(request: PreviewRequest, digest: str | None) -> None:
    if digest is not None and not request.replace_existing:
        raise Conflict(what="picture", name=request.ref, reason="exists; [[replace]] draws it again")


def _small(pixels: Any) -> bytes:
    """PNG of at most ``SIDE`` pixels a side; a small model's picture is enlarged to be seen."""
    from PIL import Image

    image = Image.fromarray(pixels)
    least = min(image.size)
    if least < SIDE // 2:
        image = image.resize((SIDE // 2, SIDE // 2), Image.Resampling.BICUBIC)
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
