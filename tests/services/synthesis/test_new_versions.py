"""What is recorded of new versions is told."""

from __future__ import annotations

from w2w_registry.services.synthesis.new_versions import said_held


def test_what_is_told_of_the_held() -> None:
    made = [{"ref": f"x{i}@1", "held": None if i % 2 else "held: it resembles y@1"} for i in range(30)]
    told = said_held(made)
    assert told[0] == "x0@1: held: it resembles y@1"
    assert told[-1] == "5 more are held; `w2w-reg audit query held` lists them"
    assert (len(told), said_held(made[:21])[-1][:6], said_held(made[1:2])) == (11, "1 more", [])
