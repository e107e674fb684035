"""Lineage of a version, up or down, as the provenance graph; its manifest; subjects of every node."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.provenance import graph, prov, svg
from w2w_registry.provenance import manifest as manifests
from w2w_registry.provenance.graph import Direction, Lineage, Traced
from w2w_registry.records import Result
from w2w_registry.services.recording.manifests import _nodes, manifest_of, operation_nodes
from w2w_registry.services.registry import Registry


def lineage(registry: Registry, reference: str, direction: Direction, *, depth: int | None = None) -> Lineage:
    """Ancestors or descendants of a version, at most ``depth`` steps away, with the operations between them.

    Blocked, removed and erased versions are in it: provenance is asked about exactly then.

    Raises:
        NotFound: no such identity, version or alias.
    """
    with registry.catalog.read() as session:
        start = version_for(session, reference, any_state=True)
        return lineage_of(session, start.id, direction, depth=depth)


def traced(registry: Registry, reference: str, *, down: bool, depth: int | None) -> Traced:
    """``lineage`` by names. Raises NotFound: no such identity, version or alias."""
    return lineage(registry, reference, Direction.DOWN if down else Direction.UP, depth=depth).traced()


def trace(registry: Registry, reference: str, *, down: bool, depth: int | None, form: str) -> Any:
    """``lineage`` for the command line. ``form``: ``json`` (:class:`Traced`), ``tree`` (lines), ``dot`` and ``svg``
    (text) or ``prov`` (a W3C PROV-JSON document).

    Raises:
        NotFound: no such identity, version or alias.
    """
    found = lineage(registry, reference, Direction.DOWN if down else Direction.UP, depth=depth)
    forms: dict[str, Callable[[Lineage], Any]] = {
        "json": Lineage.traced,
        "tree": graph.tree,
        "dot": graph.dot,
        "svg": svg.svg,
        "prov": prov.document,
    }
    return forms[form](found)


def drawing(registry: Registry, reference: str, *, depth: int | None = None) -> svg.Drawing:
    """Ancestors and descendants of a version in one picture, laid out.

    Raises:
        NotFound: no such identity, version or alias.
    """
    with registry.catalog.read() as session:
        start = version_for(session, reference, any_state=True)
        up = lineage_of(session, start.id, Direction.UP, depth=depth)
        down = lineage_of(session, start.id, Direction.DOWN, depth=depth)
    versions, operations = {**up.versions, **down.versions}, {**up.operations, **down.operations}
    return svg.layout(Lineage(start.id, Direction.UP, versions, operations, up.cut | down.cut))


def lineage_of(session: Session, version_id: int, direction: Direction, *, depth: int | None = None) -> Lineage:
    """As ``lineage``, by version id in a session."""
    walk = walks.ancestors if direction is Direction.UP else walks.descendants
    reach = walk(session, [version_id], depth=depth)
    versions = _nodes(session, list(reach.depth))
    return Lineage(
        start=version_id,
        direction=direction,
        versions=versions,
        operations=operation_nodes(session, versions),
        cut=reach.cut,
    )


@dataclass(frozen=True, eq=False)
class ManifestShown(Result):
    """The manifest of a version with its digest."""

    manifest: dict[str, Any]
    digest: str


def show_manifest(registry: Registry, reference: str) -> ManifestShown:
    """The manifest a version came with, else the one that the catalog gives.

    Raises:
        NotFound: no such identity, version or alias.
    """
    with registry.catalog.read() as session:
        version = version_for(session, reference, any_state=True)
        found = _as_pulled(registry, version) or manifest_of(session, version)
    return ManifestShown(found, manifests.digest(found))


def _as_pulled(registry: Registry, version: Version) -> dict[str, Any] | None:
    """The manifest a version had where it was made, when it came with one."""
    if version.manifest_digest is None or not registry.artifacts.exists(version.manifest_digest):
        return None
    recorded: dict[str, Any] = json.loads(registry.artifacts.get(version.manifest_digest))
    return recorded
