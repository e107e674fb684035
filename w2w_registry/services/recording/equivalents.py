"""Finding the version that already holds a model: by its bytes, its numbers, or its ΔW under any factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy.orm import Session

from w2w_registry.catalog.likeness import StoredSketch, sketches_in
from w2w_registry.catalog.lookup import came_in, known_version, versions_of_model
from w2w_registry.catalog.models import Space, Version
from w2w_registry.catalog.vectors import coordinates_of
from w2w_registry.errors import RegistryError
from w2w_registry.lora import (
    Adapter,
    Factors,
    LoraFile,
    digests_of,
    read_adapter,
    same_model,
    same_shares,
    shares_of,
)
from w2w_registry.records import VersionState
from w2w_registry.services.recording.likeness import Likeness, of_adapter, of_theta
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.registry import Registry
from w2w_registry.space.sketch import KIND, NEAR, Sketch, distance, near_cells, unpacked

PRESENT = (VersionState.ACTIVE, VersionState.HELD, VersionState.BLOCKED)


def known_model(
    registry: Registry, session: Session, sha256: str, digests: Sequence[str], likeness: Likeness
) -> tuple[Version, str | None] | None:
    """The oldest version in service that is this model, and how it is known when the bytes differ (None: the same).

    Args:
        sha256: of the file. digests: of its numbers, as they are first, then as fp16 and bf16 round them.
    """
    found = known_version(session, sha256, digests)
    if found is not None:
        if came_in(session, found.id, sha256):
            return found, None
        return found, "re-saved (same numbers)" if found.model_digest == digests[0] else "re-saved (rounded)"
    return next(iter(equivalents(registry, session, likeness, PRESENT, limit=1)), None)


def known_whole(
    registry: Registry, session: Session, lora: LoraFile, digests: Sequence[str], likeness: Likeness
) -> tuple[Version, str | None] | None:
    """As ``known_model``, for a LoRA with all its parts: one of the same denoiser whose text encoder's share is another
    is another model."""
    shares = {one.part: Factors(one.tensors, one.alphas, lora.dtype) for one in lora.beside}
    return _known_with(registry, session, lora.sha256, digests, likeness, shares)


def known_adapter(
    registry: Registry, session: Session, adapter: Adapter, likeness: Likeness
) -> tuple[Version, str | None] | None:
    """As ``known_whole``, for any adapter."""
    shares = shares_of(adapter) if adapter.denoiser else {}
    return _known_with(registry, session, adapter.sha256, digests_of(adapter), likeness, shares)


def copies_of_adapter(registry: Registry, session: Session, adapter: Adapter) -> list[tuple[Version, str]]:
    """Every version in service that is this very model, text encoders included, with how each is known."""
    equal = [(version, "re-saved (same numbers)") for version in versions_of_model(session, digests_of(adapter))]
    there = {version.id for version, _ in equal}
    others = equivalents(registry, session, of_adapter(adapter), PRESENT)
    shares = shares_of(adapter) if adapter.denoiser else {}
    if shares is None:  # only its digest says that it is the same, and that is of all its parts
        return equal
    alike = [(v, how) for v, how in others if v.id not in there and _has_shares(registry, v, shares)]
    return [*equal, *alike]


def copies_of_version(registry: Registry, session: Session, version: Version) -> list[tuple[Version, str]]:
    """As ``copies_of_adapter``, of a registered version."""
    if version.artifact_digest is None:
        return equivalents(registry, session, stored_likeness(registry, session, version), PRESENT)
    with registry.artifacts.local(version.artifact_digest) as path:
        return copies_of_adapter(registry, session, read_adapter(path))


def _known_with(
    registry: Registry,
    session: Session,
    sha256: str,
    digests: Sequence[str],
    likeness: Likeness,
    shares: Mapping[str, Factors] | None,
) -> tuple[Version, str | None] | None:
    found = known_model(registry, session, sha256, digests, likeness)
    if found is None or found[1] is None:
        return found
    if shares is None:  # only its digest says that it is the same, and that is of all its parts
        return found if found[0].model_digest in digests else None
    others = equivalents(registry, session, likeness, PRESENT)
    for version, how in (found, *((v, found[1]) for v in versions_of_model(session, digests)), *others):
        if _has_shares(registry, version, shares):
            return version, how
    return None


def _has_shares(registry: Registry, version: Version, shares: Mapping[str, Factors]) -> bool:
    """Whether a version changes the other parts of the pipeline in this way."""
    if version.artifact_digest is None:
        return not shares
    try:
        with registry.artifacts.local(version.artifact_digest) as path:
            stored = read_adapter(path)
    except RegistryError:
        return True  # what cannot be read is for ``verify`` to say; the denoiser's own numbers are the same
    return same_shares(shares, shares_of(stored) if stored.denoiser else {})


def equivalents(
    registry: Registry,
    session: Session,
    likeness: Likeness,
    states: Sequence[VersionState],
    *,
    limit: int | None = None,
) -> list[tuple[Version, str]]:
    """Versions whose ΔW is this one (``lora.equivalence.same_model``), the oldest first, each with how it is known."""
    if likeness.factors is None or likeness.sketch is None:
        return []
    mine = likeness.sketch
    found: list[tuple[Version, str]] = []
    for row in near_any(session, [mine], states)[0]:
        version = session.get_one(Version, row.version_id)
        theirs = stored_likeness(registry, session, version).factors
        if theirs is None:
            continue
        answer = same_model(likeness.factors, theirs)
        if answer.same:
            found.append((version, f"re-saved ({answer.how}, {theirs.dtype} and {likeness.factors.dtype})"))
            if limit is not None and len(found) == limit:
                break
    return found


def near_any(session: Session, sketches: Sequence[Sketch], states: Sequence[VersionState]) -> list[list[StoredSketch]]:
    """For each sketch those of versions in these states that are ``NEAR`` it, the oldest first: a few look-ups each,
    however many versions there are."""
    cells = near_cells(sketches)
    stored = sketches_in(session, KIND, (cell for of in cells for cell in of), states)
    found = []
    for sketch, of in zip(sketches, cells, strict=True):
        rows = [row for cell in of if cell in stored for row in stored[cell]]
        near = [row for row in rows if distance(sketch, restored(row)) <= NEAR]
        found.append(sorted(near, key=lambda row: row.version_id))
    return found


def stored_likeness(registry: Registry, session: Session, version: Version) -> Likeness:
    """The likeness of a version from its stored LoRA, or from its point where that is all there is; unknown when
    neither can be read (which is for ``verify`` to say)."""
    return stored_likenesses(registry, session, [version])[version.id]


def stored_likenesses(registry: Registry, session: Session, versions: Sequence[Version]) -> dict[int, Likeness]:
    """As ``stored_likeness``, of several by id: a query a space, and each space opened once."""
    found = dict.fromkeys((version.id for version in versions), Likeness(None, None))
    by_space: dict[int, list[Version]] = {}
    for version in versions:
        if version.artifact_digest is not None:
            with suppress(RegistryError), registry.artifacts.local(version.artifact_digest) as path:
                found[version.id] = of_adapter(read_adapter(path))
        elif version.space_id is not None:
            by_space.setdefault(version.space_id, []).append(version)
    for space_id, placed in by_space.items():
        points = coordinates_of(session, space_id, [version.id for version in placed])
        with suppress(RegistryError):
            space = load_space(registry.artifacts, session.get_one(Space, space_id))
            for version_id, point in points.items():
                found[version_id] = of_theta(space.reconstruct(point), space.layout)
    return found


def restored(row: StoredSketch) -> Sketch:
    """A stored sketch as a value."""
    return Sketch(unpacked([row.data])[0], row.norm)
