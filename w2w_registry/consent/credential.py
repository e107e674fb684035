"""Consents that a subject signed: a W3C Verifiable Credential (VC 2.0) secured as a JWS (``vc+jwt``, RFC 7515).

    header   {"alg": "EdDSA" or "ES256", "typ": "vc+jwt", "jwk": the subject's public key}
    payload  {"@context": [".../credentials/v2"], "type": ["VerifiableCredential", "ConsentCredential"], "issuer": …,
              "validFrom": …, "validUntil": …, "credentialSubject": {"id": the pseudonym, "consent": {what is granted}}}

Ed25519 keys (RFC 8037) and P-256 keys, as passkeys and wallets have, sign it. What it grants is read from the payload
alone, so nobody between the subject and the registry can widen it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from w2w_registry.consent.records import ConsentRecord, Scope, Use
from w2w_registry.records import canonical_json, iso

CONTEXT: Final = "https://www.w3.org/ns/credentials/v2"
TYPES: Final = ("VerifiableCredential", "ConsentCredential")
_LIMIT: Final = 1 << 16


@dataclass(frozen=True)
class Credential:
    """What was signed. ``key``: RFC 7638 thumbprint of the key that signed it."""

    subject: str
    scope: Scope
    key: str

    def covers(self, record: ConsentRecord) -> bool:
        """Whether a record claims no more than this grants."""
        return record.subject == self.subject and record.scope.within(self.scope)


@lru_cache(maxsize=4096)
def open_credential(text: str) -> Credential:
    """Read a signed consent and check its signature.

    Raises:
        ValueError: not a consent credential, or the signature does not hold; says which.
    """
    if len(text) > _LIMIT:
        raise ValueError("longer than a consent can be")
    parts = text.strip().split(".")
    if len(parts) != 3:
        raise ValueError("not a JWS in its compact form")
    try:
        header, payload = (json.loads(_bytes(part)) for part in parts[:2])
        jwk = {str(k): str(v) for k, v in header["jwk"].items()}
        algorithm = header["alg"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("not a JWS with the signer's key (jwk) in its header") from None
    if header.get("crit") or not _holds(algorithm, jwk, f"{parts[0]}.{parts[1]}".encode(), _bytes(parts[2])):
        raise ValueError("the signature does not hold")
    if not isinstance(payload, Mapping) or CONTEXT not in payload.get("@context", ()):
        raise ValueError("not a verifiable credential of version 2.0")
    if not set(TYPES) <= set(payload.get("type", ())):
        raise ValueError(f"its type is not {', '.join(TYPES)}")
    try:
        subject = payload["credentialSubject"]
        return Credential(str(subject["id"]), _scope(payload, subject["consent"]), thumbprint(jwk))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its terms cannot be read: {error}") from None


def make_credential(subject: str, scope: Scope, private: bytes, *, issuer: str | None = None) -> str:
    """Sign a consent with an Ed25519 private key (32 bytes)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(private)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": _text(key.public_key().public_bytes_raw())}
    header = {"alg": "EdDSA", "typ": "vc+jwt", "jwk": jwk}
    consent: dict[str, Any] = {
        "purposes": list(scope.purposes),
        "uses": None if scope.uses is None else [str(use) for use in scope.uses],
        "forbidden": list(scope.forbidden),
        "derivatives": scope.derivatives,
        "publication": scope.publication,
        "territory": None if scope.territory is None else list(scope.territory),
    }
    payload: dict[str, Any] = {
        "@context": [CONTEXT],
        "type": list(TYPES),
        "issuer": issuer or f"did:jwk:{_text(canonical_json(jwk).encode())}",
        "credentialSubject": {"id": subject, "consent": consent},
    }
    for name, moment in (("validFrom", scope.valid_from), ("validUntil", scope.expires_at)):
        if moment is not None:
            payload[name] = iso(moment)
    signed = ".".join(_text(canonical_json(part).encode()) for part in (header, payload))
    return f"{signed}.{_text(key.sign(signed.encode()))}"


def thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638: SHA-256 (hex here) of the key's required members."""
    members = ("crv", "kty", "x") if jwk.get("kty") == "OKP" else ("crv", "kty", "x", "y")
    return hashlib.sha256(canonical_json({name: jwk[name] for name in members}).encode()).hexdigest()


def _scope(payload: Mapping[str, Any], consent: Mapping[str, Any]) -> Scope:
    """The terms; what is not said is not granted, and no term is read as "everything" by mistake."""

    def texts(name: str) -> tuple[str, ...] | None:
        value = consent.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{name} is not a list of texts")
        return tuple(value)

    def moment(name: str) -> datetime | None:
        found = None if payload.get(name) is None else datetime.fromisoformat(str(payload[name]))
        if found is not None and found.tzinfo is None:
            raise ValueError(f"{name} has no time zone")
        return found

    uses = texts("uses")
    return Scope(
        purposes=texts("purposes") or (),
        uses=None if uses is None else tuple(Use(use) for use in uses),
        forbidden=texts("forbidden") or (),
        derivatives=consent.get("derivatives") is True,
        publication=consent.get("publication") is True,
        territory=texts("territory"),
        valid_from=moment("validFrom"),
        expires_at=moment("validUntil"),
    )


def _holds(algorithm: str, jwk: Mapping[str, str], message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        if (algorithm, jwk.get("kty"), jwk.get("crv")) == ("EdDSA", "OKP", "Ed25519"):
            Ed25519PublicKey.from_public_bytes(_bytes(jwk["x"])).verify(signature, message)
            return True
        if (algorithm, jwk.get("kty"), jwk.get("crv")) == ("ES256", "EC", "P-256") and len(signature) == 64:
            x, y = (int.from_bytes(_bytes(jwk[name]), "big") for name in ("x", "y"))
            pair = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            public.verify(utils.encode_dss_signature(*pair), message, ec.ECDSA(hashes.SHA256()))
            return True
    except (InvalidSignature, ValueError, KeyError):
        return False
    raise ValueError("signed in a way that is not known here: Ed25519 (EdDSA) and P-256 (ES256) are")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64url: {error}") from None
