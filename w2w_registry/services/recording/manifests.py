"""The facts that fix what a version is, read from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.lookup import refs_of, subjects_of, versions_by_id
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.space_rows import all_spaces
from w2w_registry.provenance import manifest as manifests
from w2w_registry.provenance.graph import Input, OperationNode, VersionNode
from w2w_registry.records import iso


def _nodes(session: Session, version_ids: Sequence[int]) -> dict[int, VersionNode]:
    subjects = subjects_of(session, version_ids)
    spaces = {space.id: space.ref for space in all_spaces(session)}
    return {
        i: VersionNode(
            version_id=i,
            ref=row.ref,
            kind=row.kind.value,
            state=row.state.value,
            operation_id=row.operation_id,
            subjects=subjects.get(i, ()),
            coordinates_digest=row.coordinates_digest,
            space=spaces.get(row.space_id or 0),
        )
        for i, row in walks.facts_of(session, version_ids).items()
    }


def operation_nodes(session: Session, version_ids: Iterable[int]) -> dict[str, OperationNode]:
    """The operations that made these versions, by id."""
    found = walks.operations_of(session, version_ids)
    parents = {item.version_id for _, inputs in found.values() for item in inputs if item.version_id is not None}
    names = {i: str(ref) for i, ref in refs_of(session, parents).items()}
    return {key: _operation_node(operation, inputs, names) for key, (operation, inputs) in found.items()}


def _operation_node(operation: Row[Any], inputs: Iterable[Row[Any]], names: Mapping[int, str]) -> OperationNode:
    return OperationNode(
        operation_id=operation.id,
        kind=operation.kind,
        agent=operation.agent,
        started_at=iso(operation.started_at),
        ended_at=None if operation.ended_at is None else iso(operation.ended_at),
        parameters=operation.params,
        seed=operation.seed,
        code_version=operation.code_version,
        models=operation.models,
        inputs=tuple(
            Input(
                kind=item.kind.value,
                role=item.role,
                name=names.get(item.version_id or 0) or item.ref or "unnamed",
                version_id=item.version_id,
                digest=item.digest,
            )
            for item in inputs
        ),
    )


def manifest_of(session: Session, version: Version) -> dict[str, Any]:
    """The manifest of a version, worked out from its rows; parents by the digests of their own manifests.

    What was erased is absent from it, and so the digest differs from the one of before.
    """
    reach = walks.ancestors(session, [version.id])
    versions = versions_by_id(session, reach.depth)
    operations = operation_nodes(session, versions)
    nodes = _nodes(session, list(versions))
    made: dict[int, dict[str, Any]] = {}
    digests: dict[int, str] = {}
    # Oldest first: a version's inputs are always older than itself.
    for i in sorted(versions):
        row = versions[i]
        made[i] = manifests.manifest(
            manifests.Facts(
                space=None if row.space is None else row.space.ref,
                space_digest=None if row.space is None else row.space.digest,
                layout_digest=None if row.space is None else row.space.layout_digest,
                base_model=row.base_model,
                base_revision=row.base_revision,
                coordinates_digest=nodes[i].coordinates_digest,
                artifact_digest=row.artifact_digest,
                residual=row.residual,
                operation=operations[row.operation_id],
                parents=digests,
            )
        )
        digests[i] = manifests.digest(made[i])
    return made[version.id]
