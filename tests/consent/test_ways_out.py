"""A refusal names everything that would have to be recorded, at once; where somebody refused, nothing would help."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from w2w_registry.consent.policy import Decision, ways_out
from w2w_registry.consent.reasons import Reason, ReasonCode
from w2w_registry.consent.records import Use
from w2w_registry.errors import ConsentDenied, spelt
from w2w_registry.messages import message


def refused(use: Use, *reasons: Reason) -> Decision:
    return Decision(False, use, "research", datetime(2026, 5, 1, tzinfo=UTC), reasons)


NOBODY = Reason(ReasonCode.NO_SUBJECT, None, through="acme/ann@2")
NO_RECORD = Reason(ReasonCode.NO_RECORD, "s-1")


@pytest.mark.parametrize(
    ("decision", "commands"),
    [
        (refused(Use.EXPORT, NO_RECORD), ("w2w-reg consent grant s-1 --purpose research",)),
        (
            refused(Use.MIX, NO_RECORD, Reason(ReasonCode.DERIVATIVES, "s-2")),
            tuple(f"w2w-reg consent grant {s} --purpose research --derivatives" for s in ("s-1", "s-2")),
        ),
        (refused(Use.PUBLISH, NO_RECORD), ("w2w-reg consent grant s-1 --purpose research --publication",)),
        (
            refused(Use.EXPORT, NOBODY),
            (
                "w2w-reg consent grant SUBJECT --purpose research",
                "w2w-reg subject assign SUBJECT acme/ann --evidence FORM",
            ),
        ),
        (refused(Use.EXPORT, NO_RECORD, Reason(ReasonCode.WITHDRAWN, "s-2")), ()),
        (refused(Use.EXPORT, Reason(ReasonCode.FORBIDDEN_USE, "s-1")), ()),
    ],
)
def test_the_commands_that_would_help(decision: Decision, commands: tuple[str, ...]) -> None:
    found = ways_out(decision)
    assert tuple(spelt(way, "--{}".format) for way in found) == commands
    told = message(ConsentDenied(operation="export", purpose="", reasons=("x",), subjects=(), ways_out=found))
    assert all(f"`{command}`" in told for command in commands)
    assert ("with their consent" in told) is bool(commands)
