"""A passkey's signature (W3C Web Authentication, level 3, section 7.2): over what the authenticator says of itself, and
the digest of what the browser says of the question.

The question (challenge) is the SHA-256 of the text that is signed, so the answer is to this text and to no other. Asked
for are that somebody was there and that the device knew who (its screen lock, a PIN, a finger): the flags UP and UV.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from w2w_registry.consent.signing import from_base64url, to_base64url

_PRESENT: Final = 0x01
_VERIFIED: Final = 0x04
_HEADER: Final = 37  # SHA-256 of the site's name, flags, counter


@dataclass(frozen=True)
class Answer:
    """What a passkey answered beside its signature: ``authenticatorData`` and ``clientDataJSON``."""

    authenticator: bytes
    client: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the passkey signed."""
        return self.authenticator + hashlib.sha256(self.client).digest()


def read(found: Mapping[str, Any]) -> Answer:
    """The answer from its JSON form (base64url, as browsers give it).

    Raises:
        ValueError: it is none.
    """
    try:
        return Answer(from_base64url(found["authenticatorData"]), from_base64url(found["clientDataJSON"]))
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not a passkey's answer: authenticatorData and clientDataJSON are missing") from None


def checked(answer: Answer, text: bytes) -> str:
    """The site where the passkey was asked to sign ``text``.

    Raises:
        ValueError: it was asked something else, from within another site, nobody was there, or the device did not
            check who.
    """
    try:
        said = json.loads(answer.client)
        kind, challenge, origin = said["type"], said["challenge"], str(said["origin"])
        foreign = said.get("crossOrigin", False)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("not a passkey's answer: its clientDataJSON cannot be read") from None
    if kind != "webauthn.get" or challenge != to_base64url(hashlib.sha256(text).digest()):
        raise ValueError("the signature does not hold: the passkey was asked to sign something else")
    if foreign is not False:
        raise ValueError("the passkey was asked from within another site")
    if len(answer.authenticator) < _HEADER:
        raise ValueError("not a passkey's answer: its authenticatorData is too short")
    if answer.authenticator[:32] not in {hashlib.sha256(name.encode()).digest() for name in _names(origin)}:
        raise ValueError("the passkey does not belong to the site that asked")
    flags = answer.authenticator[32]
    if not flags & _PRESENT or not flags & _VERIFIED:
        raise ValueError("the passkey did not check who was there")
    return origin


def raw_signature(algorithm: str, signature: bytes) -> bytes:
    """The signature as JWS has it: passkeys give ECDSA's two numbers in DER.

    Raises:
        ValueError: it is not in DER.
    """
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    if algorithm != "ES256":
        return signature
    try:
        return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))
    except (ValueError, OverflowError):
        raise ValueError("the signature does not hold") from None


def _names(origin: str) -> list[str]:
    """What a site at this address may call itself: its host, and every domain the host is in."""
    try:
        labels = (urlsplit(origin).hostname or "").split(".")
    except ValueError:
        return []
    return [".".join(labels[i:]) for i in range(len(labels))]
