"""Signed checkpoints: "the log had this many events and this root", in the C2SP tlog-checkpoint form.

The text is a signed note (c2sp.org/signed-note): origin, size and root, our time as an extension line, an empty
line, and an Ed25519 signature line. Whoever keeps a checkpoint can later prove that the log was cut or rewritten.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime

from w2w_registry.errors import IntegrityError
from w2w_registry.records import iso

_ED25519 = b"\x01"


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


def verify(note: str, public: bytes) -> Checkpoint:
    """Parse a signed note and check its signature.

    Raises:
        IntegrityError: not a note, or not signed by this key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def bad(found: str) -> IntegrityError:
        return IntegrityError(
            what="checkpoint", name=note.partition("\n")[0][:80], expected="a signed note", found=found
        )

    body, _, tail = note.partition("\n\n")
    lines = body.split("\n")
    if len(lines) != 4 or not lines[1].isdecimal() or not lines[3].startswith("time "):
        raise bad("another form")
    origin, size, root64, time = lines
    words = tail.removesuffix("\n").split(" ")
    if len(words) != 3 or words[:2] != ["—", origin]:
        raise bad("no signature line of the log")
    try:
        blob = base64.b64decode(words[2], validate=True)
        root = base64.b64decode(root64, validate=True)
    except binascii.Error:
        raise bad("broken base64") from None
    if blob[:4] != key_id(origin, public):
        raise bad("signed by another key")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(blob[4:], (body + "\n").encode())
    except InvalidSignature:
        raise bad("a signature that does not hold") from None
    return Checkpoint(origin, int(size), root, time.removeprefix("time "))
