"""Signed checkpoints hold, and nothing else does."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from w2w_registry.audit import verifier
from w2w_registry.audit.checkpoint import (
    Witness,
    cosign,
    cosigned,
    joined,
    key_id,
    new_key,
    public_key,
    sign,
    verify,
)
from w2w_registry.errors import IntegrityError

KEY = bytes(range(32))
ROOT = b"\x07" * 32
NOTE = sign("registry.example/log", 12, ROOT, datetime(2026, 3, 1, tzinfo=UTC), KEY)


def test_a_note_reads_back() -> None:
    found = verify(NOTE, public_key(KEY))
    assert (found.origin, found.size, found.root) == ("registry.example/log", 12, ROOT)
    assert found.at == "2026-03-01T00:00:00.000000Z"


def test_the_form_is_a_signed_note() -> None:
    lines = NOTE.split("\n")
    assert lines[:5] == [
        "registry.example/log",
        "12",
        base64.b64encode(ROOT).decode(),
        "time 2026-03-01T00:00:00.000000Z",
        "",
    ]
    dash, name, blob = lines[5].split(" ")
    assert (dash, name, lines[6]) == ("—", "registry.example/log", "")
    assert base64.b64decode(blob)[:4] == key_id(name, public_key(KEY))
    assert len(base64.b64decode(blob)) == 4 + 64


@pytest.mark.parametrize("position", range(0, len(NOTE) - 1, 3))
def test_any_changed_character_is_refused(position: int) -> None:
    changed = NOTE[:position] + chr(ord(NOTE[position]) ^ 1) + NOTE[position + 1 :]
    with pytest.raises(IntegrityError):
        verify(changed, public_key(KEY))


@pytest.mark.parametrize("note", ["", "x", "a\nb\nc\nd\n\n", NOTE.replace("—", "-"), NOTE.partition("\n\n")[0]])
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(IntegrityError):
        verify(note, public_key(KEY))


def test_another_key_is_refused() -> None:
    with pytest.raises(IntegrityError):
        verify(NOTE, public_key(new_key()))


# -- witnesses ---------------------------------------------------------------------------------------
WITNESS_KEY = bytes(range(32, 64))
WITNESS = Witness("witness.example", public_key(WITNESS_KEY))
SEEN = datetime(2026, 3, 2, tzinfo=UTC)


def test_cosignatures_hold_beside_the_log_s_own() -> None:
    note = joined(NOTE, [NOTE.partition("\n\n")[0] + "\n\n" + cosign(NOTE, WITNESS, WITNESS_KEY, SEEN)])
    assert note.startswith(NOTE)
    assert verify(note, public_key(KEY)) == verify(NOTE, public_key(KEY))
    assert cosigned(note, WITNESS) == int(SEEN.timestamp())
    assert cosigned(NOTE, WITNESS) is None
    assert cosigned(note, Witness("other.example", WITNESS.public)) is None
    assert joined(note, [note]) == note
    assert verifier.cosigned(note, WITNESS.vkey) == int(SEEN.timestamp())
    assert verifier.open_note(note, public_key(KEY))[0] == 12
    line = cosign(NOTE, WITNESS, WITNESS_KEY, SEEN).split(" ")[2]
    assert len(base64.b64decode(line)) == 4 + 8 + 64


def test_a_cosignature_of_another_checkpoint_or_second_does_not_hold() -> None:
    other = sign("registry.example/log", 13, ROOT, datetime(2026, 3, 1, tzinfo=UTC), KEY)
    line = cosign(other, WITNESS, WITNESS_KEY, SEEN)
    assert cosigned(NOTE + line, WITNESS) is None
    assert verifier.cosigned(NOTE + line, WITNESS.vkey) is None
    with pytest.raises(IntegrityError):
        joined(NOTE, [other])
    blob = bytearray(base64.b64decode(cosign(NOTE, WITNESS, WITNESS_KEY, SEEN).split(" ")[2]))
    blob[11] ^= 1
    assert cosigned(f"{NOTE}— witness.example {base64.b64encode(blob).decode()}\n", WITNESS) is None
