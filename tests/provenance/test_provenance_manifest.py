"""Manifests: every fact that affects the result moves the digest, nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from w2w_registry.provenance.graph import Input, OperationNode
from w2w_registry.provenance.manifest import Facts, digest, manifest

OPERATION = OperationNode(
    "op-1", "edit", "curator", "2026-03-01T00:00:00.000000Z", None, {"beard": 1.5}, 7, "1.0", {"base": "rev-1"},
    (Input("version", "source", "acme/a@1", version_id=1), Input("direction", "beard", "beard", digest="dd" * 32)),
)  # fmt: skip
FACTS = Facts(
    space="faces@1", space_digest="5a" * 32, layout_digest="1a" * 32, base_model="base", base_revision="r",
    coordinates_digest="cc" * 32, artifact_digest=None, residual=0.25, operation=OPERATION, parents={1: "aa" * 32},
)  # fmt: skip


def test_who_and_when_do_not_matter() -> None:
    other = replace(OPERATION, operation_id="op-9", agent="x", started_at=None, ended_at="later")
    assert digest(manifest(replace(FACTS, operation=other))) == digest(manifest(FACTS))
    renamed = replace(OPERATION, inputs=(replace(OPERATION.inputs[0], name="other", version_id=2), OPERATION.inputs[1]))
    assert digest(manifest(replace(FACTS, operation=renamed, parents={2: "aa" * 32}))) == digest(manifest(FACTS))


def test_where_the_base_model_was_does_not_matter() -> None:
    """Its network's digest says which it was; a path would tell whoever reads the manifest who keeps it where."""
    here, there = (
        manifest(replace(FACTS, operation=replace(OPERATION, models={"unet": "ab" * 32, "model": f"/home/{who}/sd"})))
        for who in ("alice", "bob")
    )
    assert digest(here) == digest(there)
    assert "/home/" not in str(here)
    named = replace(OPERATION, models={"model": "acme/sd"})  # of an operation that recorded no digest
    assert manifest(replace(FACTS, operation=named))["operation"]["models"] == {"model": "acme/sd"}


CHANGES: list[dict[str, Any]] = [
    {"space": "faces@2"}, {"space_digest": "00" * 32}, {"layout_digest": "00" * 32}, {"base_model": "x"},
    {"base_revision": None}, {"coordinates_digest": None}, {"artifact_digest": "00" * 32}, {"residual": 0.26},
    {"parents": {1: "bb" * 32}},
    *({"operation": replace(OPERATION, **change)} for change in (
        {"kind": "mix"}, {"parameters": {"beard": 1.5000001}}, {"seed": 8}, {"code_version": "1.1"},
        {"models": {"base": "rev-2"}}, {"inputs": OPERATION.inputs[::-1]}, {"inputs": OPERATION.inputs[:1]},
    )),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_every_fact_moves_the_digest(change: dict[str, Any]) -> None:
    changed = manifest(replace(FACTS, **change))
    assert digest(changed) != digest(manifest(FACTS))
