"""Replay: what is planned, and what a comparison says."""

from __future__ import annotations

import numpy as np

from w2w_registry.provenance.graph import Input, OperationNode
from w2w_registry.provenance.replay import Outcome, compare, plan

OPERATION = OperationNode(
    "op-1", "edit", "curator", seed=7, code_version="1.0", models={"base": "rev-1", "vae": "rev-2"},
    inputs=(Input("version", "source", "acme/a@1", version_id=1), Input("photo", "photo", "p.png", digest="ab" * 32)),
)  # fmt: skip


def test_the_plan_names_steps_what_is_missing_and_what_changed() -> None:
    made = plan("acme/a@2", OPERATION, {0: None, 1: "not kept"}, {"code_version": "1.1", "base": "rev-1"})
    assert [(s.action, s.of) for s in made.steps] == [
        ("load", "version acme/a@1"),
        ("load", "photo p.png"),
        ("run", "edit with seed 7"),
        ("compare", "coordinates"),
    ]
    assert made.missing == ("not kept",)
    assert made.changed == ("code_version: 1.0 → 1.1",)
    assert made.told().possible is False
    assert plan("acme/a@2", OPERATION, {}, {}).told().possible is True


def test_comparisons() -> None:
    a = np.linspace(-1, 1, 50, dtype=np.float32)
    assert compare(a, a.copy(), tolerance=0, exact=True).outcome is Outcome.IDENTICAL
    near = compare(a, a + np.float32(1e-6), tolerance=1e-4, exact=False)
    assert near.outcome is Outcome.EQUAL
    assert near.distance is not None
    assert 0 < near.distance < 1e-5
    far = compare(a, -a, tolerance=1e-4, changed=["code_version: 1 → 2"], exact=True)
    assert (far.outcome, far.reasons) == (Outcome.DIFFERENT, ("changed since: code_version: 1 → 2",))
    unexplained = compare(a, -a, tolerance=1e-4, exact=True)
    assert "altered" in unexplained.reasons[0]


def test_nan_zero_and_other_shapes_are_different() -> None:
    a = np.ones(3, np.float32)
    assert compare(a, a * np.float32("nan"), tolerance=1, exact=True).outcome is Outcome.DIFFERENT
    assert compare(a, a[:2], tolerance=1, exact=True).outcome is Outcome.DIFFERENT
    zero = compare(a * 0, a, tolerance=1e-3, exact=True)
    assert (zero.outcome, zero.distance) == (Outcome.DIFFERENT, float(np.sqrt(3)))
