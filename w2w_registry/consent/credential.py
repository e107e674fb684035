"""Consents that a subject signed: a W3C Verifiable Credential (VC 2.0) secured as a JWS (``vc+jwt``, RFC 7515).

    header   {"alg": "EdDSA" or "ES256", "typ": "vc+jwt", "jwk": the subject's public key}
    payload  {"@context": [".../credentials/v2"], "type": ["VerifiableCredential", "ConsentCredential"], "issuer": …,
              "iat": …, "validFrom": …, "validUntil": …,
              "credentialSubject": {"id": "urn:w2w-registry:subject:" + the pseudonym, "consent": {what is granted}}}

Every term has a meaning in JSON-LD (the second ``@context`` gives the project's own), and ids are URIs, as VC 2.0
wants; credentials from before that, with one context and the bare pseudonym as id, are read too.

Ed25519 keys (RFC 8037) and P-256 keys, as wallets have, sign it in JWS' compact form. A passkey signs nothing but its
own answers to a challenge: there the JWS is in its flattened JSON form (RFC 7515, 7.2.2), the challenge is the SHA-256
of what is signed, and the unprotected header carries the rest of the answer (``consent.passkey``). What is granted is
read from the payload alone, so nobody between the subject and the registry can widen it. ``iat`` (RFC 7519, 4.1.6:
seconds since 1970) says when it was signed: what was signed before a withdrawal says nothing of what came after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

from w2w_registry.consent import passkey
from w2w_registry.consent.records import ConsentRecord, Scope, Use
from w2w_registry.consent.signing import from_base64url, signature_holds, to_base64url
from w2w_registry.records import canonical_json, iso, now

CONTEXT: Final = "https://www.w3.org/ns/credentials/v2"
OWN_TERMS: Final = {"@vocab": "urn:w2w-registry:terms#"}
SUBJECT: Final = "urn:w2w-registry:subject:"
TYPES: Final = ("VerifiableCredential", "ConsentCredential")
_LIMIT: Final = 1 << 16


@dataclass(frozen=True)
class Credential:
    """What was signed. ``key``: RFC 7638 thumbprint of the key that signed it. ``origin``: the site where a passkey was
    asked to, None for another key. ``signed_at``: None in files from before they said so."""

    subject: str
    scope: Scope
    key: str
    origin: str | None = None
    signed_at: datetime | None = None

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
    jws = _parts(text.strip())
    try:
        header, payload = (json.loads(from_base64url(part)) for part in (jws.protected, jws.payload))
        jwk = {str(k): str(v) for k, v in header["jwk"].items()}
        algorithm = str(header["alg"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("not a JWS with the signer's key (jwk) in its header") from None
    message, signature = f"{jws.protected}.{jws.payload}".encode(), from_base64url(jws.signature)
    if header.get("crit"):
        raise ValueError("the signature does not hold: its header demands what is not known here")
    origin = None
    if jws.passkey is None:
        holds = signature_holds(algorithm, jwk, message, signature)
    else:
        answer = passkey.read(jws.passkey)
        origin = passkey.checked(answer, message)
        holds = signature_holds(algorithm, jwk, answer.signed, passkey.raw_signature(algorithm, signature))
    if not holds:
        raise ValueError("the signature does not hold")
    if not isinstance(payload, Mapping) or CONTEXT not in payload.get("@context", ()):
        raise ValueError("not a verifiable credential of version 2.0")
    if not set(TYPES) <= set(payload.get("type", ())):
        raise ValueError(f"its type is not {', '.join(TYPES)}")
    try:
        subject = payload["credentialSubject"]
        scope = _scope(payload, subject["consent"])
        return Credential(
            _pseudonym(str(subject["id"])), scope, thumbprint(jwk), origin, _moment_of(payload.get("iat"))
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its terms cannot be read: {error}") from None


def make_credential(
    subject: str, scope: Scope, private: bytes, *, at: datetime | None = None, issuer: str | None = None
) -> str:
    """Sign a consent with an Ed25519 private key (32 bytes). ``at``: when (now)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(private)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": to_base64url(key.public_key().public_bytes_raw())}
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
        "@context": [CONTEXT, OWN_TERMS],
        "type": list(TYPES),
        "issuer": issuer or f"did:jwk:{to_base64url(canonical_json(jwk).encode())}",
        "iat": int((at or now()).timestamp()),
        "credentialSubject": {"id": SUBJECT + quote(subject, safe=""), "consent": consent},
    }
    for name, moment in (("validFrom", scope.valid_from), ("validUntil", scope.expires_at)):
        if moment is not None:
            payload[name] = iso(moment)
    signed = ".".join(to_base64url(canonical_json(part).encode()) for part in (header, payload))
    return f"{signed}.{to_base64url(key.sign(signed.encode()))}"


def _pseudonym(identifier: str) -> str:
    return unquote(identifier.removeprefix(SUBJECT)) if identifier.startswith(SUBJECT) else identifier


def thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638: SHA-256 (hex here) of the key's required members."""
    members = ("crv", "kty", "x") if jwk.get("kty") == "OKP" else ("crv", "kty", "x", "y")
    return hashlib.sha256(canonical_json({name: jwk[name] for name in members}).encode()).hexdigest()


@dataclass(frozen=True)
class _Jws:
    protected: str
    payload: str
    signature: str
    passkey: Mapping[str, Any] | None = None


def _parts(text: str) -> _Jws:
    """Compact, or flattened JSON with a passkey's answer in the unprotected header."""
    if not text.startswith("{"):
        parts = text.split(".")
        if len(parts) != 3:
            raise ValueError("not a JWS in its compact form")
        protected, payload, signature = parts
        return _Jws(protected, payload, signature)
    try:
        found = json.loads(text)
        jws = _Jws(found["protected"], found["payload"], found["signature"], found["header"]["webauthn"])
    except (ValueError, KeyError, TypeError):
        raise ValueError("not a JWS in its flattened form with a passkey's answer in its header") from None
    if not all(isinstance(part, str) for part in (jws.protected, jws.payload, jws.signature)):
        raise ValueError("not a JWS in its flattened form with a passkey's answer in its header")
    return jws


def _moment_of(seconds: Any) -> datetime | None:
    """A NumericDate (RFC 7519, 2), None when there is none.

    Raises:
        ValueError: it is no moment.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError("iat is no number of seconds")
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        raise ValueError("iat is no moment") from None


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
