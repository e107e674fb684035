"""Verifying what is stored, and signing and verifying exported folders.

Folders are signed with ``model-signing`` (OpenSSF model signing, sigstore bundles): with a key pair offline, or
through sigstore by those who have it. The signature lies in the folder as ``model.sig``. The calls made for sigstore
are tested against a stand-in of its signer; nothing here was ever run against the real service.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.identities import versions_with_names
from w2w_registry.catalog.lookup import coordinates_rows
from w2w_registry.catalog.models import Space, Version
from w2w_registry.catalog.resolve import PRESENT, version_for
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
        problems = list(_problems(registry, session, version))
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
        rows = versions_with_names(session)
        for done, (version, name) in enumerate(rows, 1):
            problems = list(_problems(registry, session, version))
            if problems:
                out.append({"version": f"{name}@{version.number}", "problems": problems})
            progress(done, len(rows))
    return out


def _problems(registry: Registry, session: Session, version: Version) -> Iterator[str]:
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
    rows = coordinates_rows(session, version.id)
    if not rows and version.state in PRESENT:
        yield "it has no coordinates"
    for row in rows:
        found = pack(unpack(row.data))[1]
        if found != row.digest:
            yield f"its coordinates are not what was recorded: {row.digest[:12]}, now {found[:12]}"
    space = session.get_one(Space, version.space_id)
    if not registry.artifacts.exists(space.artifact_digest):
        yield f"the arrays of its space {space.ref} are gone"
