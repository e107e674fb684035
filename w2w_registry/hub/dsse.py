"""DSSE envelopes (Dead Simple Signing Envelope, v1.0.2): a payload, its type, and signatures over both.

Signed with a P-256 key by deterministic ECDSA (RFC 6979), so that the same payload gives the same envelope. Any tool
that reads DSSE checks it: securesystemslib, cosign, in-toto.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2w_registry.errors import BadFile, IntegrityError
from w2w_registry.files import read_bytes
from w2w_registry.hub.bundle import read_table
from w2w_registry.records import canonical_json

_KEY_LIMIT = 1 << 16

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def encode(payload: bytes, key: Path | None) -> bytes:
    """An envelope around an in-toto statement, one line; ``key`` None: with no signature in it.

    Raises:
        BadFile: ``key`` holds no usable private key.
    """
    signatures = [] if key is None else [_sign(payload, key)]
    body = {"payloadType": PAYLOAD_TYPE, "payload": base64.b64encode(payload).decode(), "signatures": signatures}
    return (canonical_json(body) + "\n").encode()


def decode(data: bytes, where: str) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """The payload and the signatures (key id, signature), none of them checked.

    Raises:
        BadFile: not an envelope around an in-toto statement.
    """
    body = read_table(data, where)
    try:
        if body["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("another type of payload")
        payload = base64.b64decode(body["payload"], validate=True)
        found = tuple((str(s.get("keyid", "")), base64.b64decode(s["sig"], validate=True)) for s in body["signatures"])
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        raise BadFile(path=where, reason="not an in-toto statement in a DSSE envelope") from None
    return payload, found


def check(data: bytes, key: Path, where: str) -> bool:
    """Whether ``key`` (a public one) signed the envelope; False when no signature names it.

    Raises:
        IntegrityError: a signature names the key and does not hold. BadFile: no envelope, or no usable key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    payload, signatures = decode(data, where)
    try:
        public = serialization.load_pem_public_key(read_bytes(key, limit=_KEY_LIMIT))
    except ValueError:
        raise BadFile(path=str(key), reason="not a usable public key") from None
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return False
    mine = [signature for named, signature in signatures if named == key_id(public)]
    for signature in mine:
        try:
            public.verify(signature, _pae(payload), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise IntegrityError(
                what="signature of", name=where, expected="made over what it holds", found="over something else"
            ) from None
    return bool(mine)


def key_id(public: EllipticCurvePublicKey) -> str:
    """SHA-256 (hex) of the public key's SubjectPublicKeyInfo in DER."""
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _sign(payload: bytes, key: Path) -> dict[str, Any]:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        private = serialization.load_pem_private_key(read_bytes(key, limit=_KEY_LIMIT), password=None)
    except (ValueError, TypeError):
        raise BadFile(path=str(key), reason="not a usable private key") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise BadFile(path=str(key), reason="not a usable private key (an elliptic curve key is expected)")
    signature = private.sign(_pae(payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return {"keyid": key_id(private.public_key()), "sig": base64.b64encode(signature).decode()}


def _pae(payload: bytes) -> bytes:
    """Pre-authentication encoding: what is signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
