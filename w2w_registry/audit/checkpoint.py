"""Signed checkpoints: "the log had this many events and this root", in the C2SP tlog-checkpoint form.

The text is a signed note (c2sp.org/signed-note): origin, size and root, our time as an extension line, an empty
line, and an Ed25519 signature line. Whoever keeps a checkpoint can later prove that the log was cut or rewritten.
Witnesses add lines of their own (c2sp.org/tlog-cosignature, cosignature/v1): "at this second, this was the newest
checkpoint of this log that I have seen, and it extends every one before".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from datetime import datetime

from w2w_registry.errors import IntegrityError
from w2w_registry.records import iso

_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_DASH = "— "


@dataclass(frozen=True)
class Checkpoint:
    """What is signed. ``root``: 32 bytes (RFC 9162 tree hash of the first ``size`` event hashes)."""

    origin: str
    size: int
    root: bytes
    at: str

    def body(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\ntime {self.at}\n"


def new_key() -> bytes:
    """A new Ed25519 private key, 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """The public half, 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def key_id(origin: str, public: bytes) -> bytes:
    """Signed-note key id: the first four bytes of SHA-256(name || 0x0A || 0x01 || public key)."""
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + public).digest()[:4]


def sign(origin: str, size: int, root: bytes, at: datetime, private: bytes) -> str:
    """The signed note. ``origin`` names the log, without spaces or plus signs."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    body = Checkpoint(origin, size, root, iso(at)).body()
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(body.encode())
    blob = base64.b64encode(key_id(origin, public_key(private)) + signature).decode()
    return f"{body}\n— {origin} {blob}\n"


@dataclass(frozen=True)
class Line:
    """A signature line: who signed, the first bytes of which key, and what they wrote."""

    name: str
    key_id: bytes
    signature: bytes


def verify(note: str, public: bytes) -> Checkpoint:
    """Parse a signed note and check the log's own signature; other lines are left to those who know their keys.

    Raises:
        IntegrityError: not a note, or not signed by this key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    body, lines = split(note)
    origin, size, root64, time = body.removesuffix("\n").split("\n")
    wanted = key_id(origin, public)
    mine = [line for line in lines if line.name == origin]
    if not mine:
        raise _bad(note, "no signature line of the log")
    signature = next((line.signature for line in mine if line.key_id == wanted), None)
    if signature is None:
        raise _bad(note, "signed by another key")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, body.encode())
    except InvalidSignature:
        raise _bad(note, "a signature that does not hold") from None
    return Checkpoint(origin, int(size), base64.b64decode(root64), time.removeprefix("time "))


def split(note: str) -> tuple[str, list[Line]]:
    """The text that is signed, its last line end included, and the signature lines.

    Raises:
        IntegrityError: not a checkpoint in the form of a signed note.
    """
    body, _, tail = note.partition("\n\n")
    fields = body.split("\n")
    if len(fields) != 4 or not fields[1].isdecimal() or not fields[3].startswith("time ") or not tail.endswith("\n"):
        raise _bad(note, "another form")
    lines = []
    for text in tail.removesuffix("\n").split("\n"):
        words = text.removeprefix(_DASH).split(" ")
        if not text.startswith(_DASH) or len(words) != 2:
            raise _bad(note, "a line that is not a signature")
        try:
            blob = base64.b64decode(words[1], validate=True)
            base64.b64decode(fields[2], validate=True)
        except binascii.Error:
            raise _bad(note, "broken base64") from None
        lines.append(Line(words[0], blob[:4], blob[4:]))
    return body + "\n", lines


def _bad(note: str, found: str) -> IntegrityError:
    return IntegrityError(what="checkpoint", name=note.partition("\n")[0][:80], expected="a signed note", found=found)


# -- witnesses ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Witness:
    """Somebody who cosigns: a name without spaces or plus signs, and a public key of 32 bytes."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """SHA-256(name || 0x0A || 0x04 || public key), its first four bytes."""
        return hashlib.sha256(self.name.encode() + b"\n" + _COSIGNATURE + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        """The verifier key as signed notes write it: ``NAME+ID+KEY``."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_COSIGNATURE + self.public).decode()}"


def cosign(note: str, witness: Witness, private: bytes, at: datetime) -> str:
    """The signature line, with its end, by which a witness says that it has seen this checkpoint.

    Raises:
        IntegrityError: not a checkpoint.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    body, _ = split(note)
    second = int(at.timestamp())
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(_said(body, second))
    blob = base64.b64encode(witness.key_id + struct.pack(">Q", second) + signature).decode()
    return f"{_DASH}{witness.name} {blob}\n"


def cosigned(note: str, witness: Witness) -> int | None:
    """The second (UTC, since 1970) at which the witness cosigned; None when it did not, or its line does not hold."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    body, lines = split(note)
    for line in lines:
        if (line.name, line.key_id, len(line.signature)) == (witness.name, witness.key_id, 72):
            second = int(struct.unpack(">Q", line.signature[:8])[0])
            try:
                Ed25519PublicKey.from_public_bytes(witness.public).verify(line.signature[8:], _said(body, second))
            except InvalidSignature:
                continue
            return second
    return None


def joined(note: str, others: list[str]) -> str:
    """The note with the signature lines of other copies of the same checkpoint; each line once.

    Raises:
        IntegrityError: one of them is a copy of another checkpoint.
    """
    body, _ = split(note)
    lines = note.partition("\n\n")[2].splitlines()
    for other in others:
        theirs, _ = split(other)
        if theirs != body:
            raise IntegrityError(
                what="cosignature",
                name=theirs.split("\n")[0][:80],
                expected=body.split("\n")[1],
                found="of another one",
            )
        lines += [line for line in other.partition("\n\n")[2].splitlines() if line not in lines]
    return body + "\n" + "".join(line + "\n" for line in lines)


def _said(body: str, second: int) -> bytes:
    """What a witness signs."""
    return f"cosignature/v1\ntime {second}\n{body}".encode()
