"""The chain's hash: fixed by example, moved by every field."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from w2w_registry.audit.chain import GENESIS, event_hash

BODY = {"seq": 1, "at": "2026-01-31T12:00:00.000000Z", "actor": "curator", "action": "version.add", "data": {"id": 7}}


def test_the_form_is_fixed() -> None:
    text = (
        '{"body":{"action":"version.add","actor":"curator","at":"2026-01-31T12:00:00.000000Z","data":{"id":7},"seq":1},'
        '"prev":"' + "0" * 64 + '"}'
    )
    assert event_hash(GENESIS, BODY) == hashlib.sha256(text.encode()).hexdigest()


def test_key_order_does_not_matter_and_prev_does() -> None:
    assert event_hash(GENESIS, dict(reversed(BODY.items()))) == event_hash(GENESIS, BODY)
    assert event_hash("1" * 64, BODY) != event_hash(GENESIS, BODY)


@given(st.sampled_from(sorted(BODY)), st.text() | st.integers())
def test_any_changed_field_changes_the_hash(key: str, value: object) -> None:
    changed = {**BODY, key: value}
    assert (event_hash(GENESIS, changed) == event_hash(GENESIS, BODY)) == (changed == BODY)
