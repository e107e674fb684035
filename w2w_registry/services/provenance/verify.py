"""Verifying what is stored, and signing and verifying exported folders.

Folders are signed with ``model-signing`` (OpenSSF model signing, sigstore bundles): with a key pair offline, or
through sigstore by those who have it. The signature lies in the folder as ``model.sig``. The calls made for sigstore
are tested against a stand-in of its signer; nothing here was ever run against the real service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import versions_with_names
from w2w_registry.catalog.lookup import coordinates_rows
from w2w_registry.catalog.models import Coordinates, Version
from w2w_registry.catalog.resolve import PRESENT, version_for
from w2w_registry.catalog.rows import chunked
from w2w_registry.catalog.space_rows import all_spaces
from w2w_registry.catalog.vectors import pack, unpack
from w2w_registry.errors import (
    IntegrityError,
    NotFound,
    StorageError,
)
from w2w_registry.provenance import manifest as manifests
from w2w_registry.records import Result
from w2w_registry.services.recording.manifests import manifest_of
from w2w_registry.services.registry import Progress, Registry, no_progress


@dataclass(frozen=True, eq=False)
class Verified(Result):
    """Whether a version is what was recorded of it."""

    version: str
    state: str
    ok: bool
    problems: list[str]
    manifest: str | None


# -- what is stored ----------------------------------------------------------------------------------
def verify_version(registry: Registry, reference: str) -> Verified:
    """Check a version's files, coordinates, space and manifest against what was recorded.

    Returns:
        ``ok`` and the ``problems``, one line each.

    Raises:
        NotFound: no such identity or version.
    """
    with registry.catalog.read() as session:
        version = version_for(session, reference, any_state=True)
        name = f"{version.identity.name}@{version.number}"
        ((_, problems),) = _checked(registry, session, [version])
        digest = manifests.digest(manifest_of(session, version))
    return Verified(
        version=name,
        state=version.state.value,
        ok=not problems,
        problems=problems,
        manifest=digest,
    )


def mismatched(registry: Registry, progress: Progress = no_progress) -> list[dict[str, Any]]:
    """Every version in the registry whose files or coordinates no longer match, with its problems."""
    out: list[dict[str, Any]] = []
    with registry.catalog.read() as session:
        named = versions_with_names(session)
        checked = _checked(registry, session, [version for version, _ in named])
        for done, ((_, name), (version, problems)) in enumerate(zip(named, checked, strict=True), 1):
            if problems:
                out.append({"version": f"{name}@{version.number}", "problems": problems})
            progress(done, len(named))
    return out


def _checked(registry: Registry, session: Session, versions: Iterable[Version]) -> Iterator[tuple[Version, list[str]]]:
    """Each version with its problems. Few coordinates are held at a time, and each space is looked for once."""
    gone = {
        space.id: f"the arrays of its space {space.ref} are gone"
        for space in all_spaces(session)
        if not registry.artifacts.exists(space.artifact_digest)
    }
    for chunk in chunked(versions):
        points = coordinates_rows(session, [version.id for version in chunk])
        for version in chunk:
            problems = [*_of_files(registry, version), *_of_points(version, points.get(version.id, []))]
            yield version, problems + ([gone[version.space_id]] if version.space_id in gone else [])


def _of_files(registry: Registry, version: Version) -> Iterator[str]:
    files = (
        ("LoRA", version.artifact_digest),
        ("preview", version.preview_digest),
        ("manifest", version.manifest_digest),
    )
    for what, digest in files:
        if digest is None:
            continue
        try:
            registry.artifacts.get(digest)
        except NotFound:
            yield f"its {what} {digest[:12]} is gone"
        except IntegrityError as error:
            yield f"its {what} {digest[:12]} was changed: its content is now {error.found[:12]}"
        except StorageError as error:
            yield f"its {what} {digest[:12]} cannot be read: {error.reason}"


def _of_points(version: Version, rows: Sequence[Coordinates]) -> Iterator[str]:
    if not rows and version.space_id is not None and version.state in PRESENT:
        yield "it has no coordinates"
    for row in rows:
        found = pack(unpack(row.data))[1]
        if found != row.digest:
            yield f"its coordinates are not what was recorded: {row.digest[:12]}, now {found[:12]}"
