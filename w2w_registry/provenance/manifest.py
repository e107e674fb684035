"""The manifest of a version: every fact that fixes what it is and how it was made, in one canonical form.

Two versions with one manifest digest are one model, made one way. Nothing personal is in it: inputs are named by
digest, the subject not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w2w_registry.provenance.graph import Input, OperationNode
from w2w_registry.records import digest_of

FORMAT = "w2w-registry manifest"
VERSION = 1


@dataclass(frozen=True)
class Facts:
    """What a manifest is made of; ``space`` and what belongs to it is None for a version in no weight space.

    ``parents``: manifest digests of version inputs, by version id.
    """

    space: str | None
    space_digest: str | None
    layout_digest: str | None
    base_model: str | None
    base_revision: str | None
    coordinates_digest: str | None
    artifact_digest: str | None
    residual: float | None
    operation: OperationNode
    parents: Mapping[int, str]


def manifest(facts: Facts) -> dict[str, Any]:
    """The manifest; ``digest`` of it names the version for ever.

    Who ran the operation and when is left out: it does not affect the result.
    """
    operation = facts.operation
    return {
        "format": FORMAT,
        "version": VERSION,
        "space": None
        if facts.space is None
        else {"name": facts.space, "digest": facts.space_digest, "layout_digest": facts.layout_digest},
        "base_model": {"id": facts.base_model, "revision": facts.base_revision},
        "coordinates_digest": facts.coordinates_digest,
        "artifact_digest": facts.artifact_digest,
        "residual": facts.residual,
        "operation": {
            "kind": operation.kind,
            "parameters": dict(operation.parameters),
            "seed": operation.seed,
            "code_version": operation.code_version,
            "models": _models(operation.models),
            "inputs": [_input(item, facts.parents) for item in operation.inputs],
        },
    }


def _models(models: Mapping[str, Any]) -> dict[str, Any]:
    """Without the place that a base model was opened from, where the digest of its network says which it was: a folder
    that moves changes nothing, and its path, which may hold somebody's name, stays here when the manifest is published.
    """
    return {name: value for name, value in models.items() if name != "model" or "unet" not in models}


def _input(item: Input, parents: Mapping[int, str]) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": item.kind, "role": item.role}
    if item.version_id is not None:
        out["manifest"] = parents.get(item.version_id)
    if item.digest is not None:
        out["digest"] = item.digest
    elif item.version_id is None:
        out["name"] = item.name
    return out


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical text."""
    return digest_of(value)
