"""Replay: compute a version again from its recorded inputs, and say how near the result is.

The plan says what would be run and what is missing for it; the comparison says identical, equal within a
tolerance, or different, and why that may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.provenance.graph import OperationNode
from w2w_registry.records import Result

CLOSED_FORM = frozenset({"edit", "mix", "import", "pull", "sample"})
"""Operations that are arithmetic on recorded arrays: the same numbers come out on every machine, or nearly."""


class Outcome(StrEnum):
    """How a replay ended. ``IMPOSSIBLE``: an input is gone."""

    IDENTICAL = "identical"
    EQUAL = "equal-within-tolerance"
    DIFFERENT = "different"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, eq=False)
class ReplayStep(Result):
    """One thing to do; ``missing`` says what stands in its way."""

    action: str
    of: str
    missing: str | None = None


@dataclass(frozen=True)
class ReplayPlan:
    """Steps in order, and what is known to differ between then and now."""

    ref: str
    operation: OperationNode
    steps: tuple[ReplayStep, ...]
    changed: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(s.missing for s in self.steps if s.missing is not None)

    def told(self) -> Planned:
        """The plan in plain values."""
        made = self.operation
        steps, changed = list(self.steps), list(self.changed)
        return Planned(self.ref, made.kind, dict(made.parameters), made.seed, steps, changed, not self.missing)


@dataclass(frozen=True, eq=False)
class Planned(Result):
    """What a replay would do: the operation that made a version, its steps, and what is not as it was then."""

    version: str
    operation: str
    parameters: dict[str, Any]
    seed: int | None
    steps: list[ReplayStep]
    changed: list[str]
    possible: bool


@dataclass(frozen=True, eq=False)
class Replayed(Planned):
    """How a replay came out, and why (as ``Comparison`` has it)."""

    outcome: str
    distance: float | None
    tolerance: float
    reasons: list[str]


def plan(
    ref: str,
    operation: OperationNode,
    available: Mapping[int, str | None],
    current: Mapping[str, str],
    further: Sequence[ReplayStep] = (),
) -> ReplayPlan:
    """Plan the replay of one version.

    Args:
        available: per position of ``operation.inputs``: None when the input can be had with its recorded digest,
            else what is wrong with it.
        current: what would run now: ``code_version`` and the models by name, held against what was recorded.
        further: what has to be there besides the inputs (a base model, an initializer).
    """
    steps = [
        ReplayStep("load", f"{item.kind} {item.name}", available.get(number))
        for number, item in enumerate(operation.inputs)
    ]
    steps += further
    seed = "" if operation.seed is None else f" with seed {operation.seed}"
    steps.append(ReplayStep("run", f"{operation.kind}{seed}"))
    steps.append(ReplayStep("compare", "coordinates"))
    then = {"code_version": operation.code_version, **{k: str(v) for k, v in operation.models.items()}}
    return ReplayPlan(ref, operation, tuple(steps), changes(then, current))


def changes(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """What was recorded and is another one now, as ``name: then → now``; what ``now`` does not name is left out."""
    known = (name for name in sorted(then) if name in now)
    return tuple(f"{name}: {then[name]} → {now[name]}" for name in known if then[name] != now[name])


@dataclass(frozen=True)
class Comparison:
    """The result. ``distance``: relative L2 distance ‖a − b‖ / ‖a‖; None when nothing could be computed."""

    outcome: Outcome
    distance: float | None
    reasons: tuple[str, ...] = ()


def compare(
    recorded: NDArray[np.floating],
    computed: NDArray[np.floating],
    *,
    tolerance: float,
    changed: Sequence[str] = (),
    exact: bool,
) -> Comparison:
    """Compare coordinates, shape (k,) float32, recorded and computed again.

    Args:
        tolerance: largest relative L2 distance that still counts as equal.
        changed: what is known to differ (``ReplayPlan.changed``), named as possible reasons.
        exact: whether the same inputs, software and machine have to give the same numbers, or nearly: arithmetic on
            recorded arrays, or an optimisation on a CPU of the recorded kind with as many threads.
    """
    if recorded.shape != computed.shape:
        reason = f"{recorded.size} coordinates were recorded, {computed.size} came out"
        return Comparison(Outcome.DIFFERENT, None, (reason,))
    if recorded.dtype == computed.dtype and recorded.tobytes() == computed.tobytes():
        return Comparison(Outcome.IDENTICAL, 0.0)
    a, b = recorded.astype(np.float64), computed.astype(np.float64)
    scale = float(np.linalg.norm(a))
    distance = float(np.linalg.norm(a - b)) / scale if scale else float(np.linalg.norm(b))
    reasons = [f"changed since: {change}" for change in changed]
    if not exact:
        reasons.append("an optimisation rounds differently on another device, kind of processor or number of threads")
    # NaN compares false: a result with NaN is never equal.
    if distance <= tolerance:
        return Comparison(Outcome.EQUAL, distance, tuple(reasons))
    if not changed and exact:
        reasons.append("same inputs, software and arithmetic: the record or the stored result was altered")
    return Comparison(Outcome.DIFFERENT, distance, tuple(reasons))
