"""W3C PROV-JSON (www.w3.org/Submission/prov-json): what the ``prov`` library and other tools read."""

from __future__ import annotations

from typing import Any

from w2w_registry.provenance.graph import Input, Lineage, OperationNode, VersionNode
from w2w_registry.records import canonical_json

NAMESPACE = "urn:w2w-registry:"


def document(lineage: Lineage) -> dict[str, Any]:
    """The lineage as a PROV-JSON document.

    Versions and outside inputs are entities, operations activities, who ran them agents; ``used``,
    ``wasGeneratedBy``, ``wasAssociatedWith``, ``wasDerivedFrom`` and ``wasAttributedTo`` join them.
    """
    out: dict[str, Any] = {
        "prefix": {"w2w": NAMESPACE},
        **{section: {} for section in ("entity", "activity", "agent")},
        **{section: {} for section in ("used", "wasGeneratedBy", "wasAssociatedWith", "wasDerivedFrom")},
    }
    for version in lineage.versions.values():
        out["entity"][_version(version.version_id)] = _entity(version)
    for operation in lineage.operations.values():
        activity, agent = f"w2w:operation-{operation.operation_id}", f"w2w:agent-{_local(operation.agent)}"
        out["activity"][activity] = _activity(operation)
        out["agent"][agent] = {"prov:label": operation.agent}
        out["wasAssociatedWith"][f"_:assoc-{operation.operation_id}"] = {"prov:activity": activity, "prov:agent": agent}
        for number, item in enumerate(operation.inputs):
            entity = _input(item)
            if entity not in out["entity"]:
                out["entity"][entity] = _outside(item)
            out["used"][f"_:used-{operation.operation_id}-{number}"] = {
                "prov:activity": activity,
                "prov:entity": entity,
                "prov:role": item.role,
            }
    for version in lineage.versions.values():
        made = lineage.operations.get(version.operation_id)
        if made is None:
            continue
        entity = _version(version.version_id)
        out["wasGeneratedBy"][f"_:gen-{version.version_id}"] = {
            "prov:entity": entity,
            "prov:activity": f"w2w:operation-{made.operation_id}",
        }
        for number, item in enumerate(made.inputs):
            out["wasDerivedFrom"][f"_:der-{version.version_id}-{number}"] = {
                "prov:generatedEntity": entity,
                "prov:usedEntity": _input(item),
            }
    return {section: content for section, content in out.items() if content}


def _entity(version: VersionNode) -> dict[str, Any]:
    facts = {
        "prov:label": version.ref,
        "prov:type": "w2w:version",
        "w2w:kind": version.kind,
        "w2w:state": version.state,
        "w2w:subject": ", ".join(version.subjects) or None,
        "w2w:space": version.space,
        "w2w:coordinates_sha256": version.coordinates_digest,
    }
    return {k: v for k, v in facts.items() if v is not None}


def _activity(operation: OperationNode) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "prov:label": operation.kind,
        "prov:type": f"w2w:{operation.kind}",
        "prov:startTime": operation.started_at,
        "prov:endTime": operation.ended_at,
        "w2w:seed": operation.seed,
        "w2w:code_version": operation.code_version or None,
    }
    for name, value in (("parameters", operation.parameters), ("models", operation.models)):
        if value:
            facts[f"w2w:{name}"] = canonical_json(value)
    return {k: v for k, v in facts.items() if v is not None}


def _outside(item: Input) -> dict[str, Any]:
    facts = {"prov:label": item.name, "prov:type": f"w2w:{_local(item.kind)}", "w2w:sha256": item.digest}
    return {k: v for k, v in facts.items() if v is not None}


def _version(version_id: int) -> str:
    return f"w2w:version-{version_id}"


def _input(item: Input) -> str:
    if item.version_id is not None:
        return _version(item.version_id)
    return f"w2w:{_local(item.kind)}-{item.digest or _local(item.name)}"


def _local(text: str) -> str:
    """A local name: what PROV's qualified names allow, the rest as hex of its UTF-8."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "_" + c.encode().hex() for c in text)
