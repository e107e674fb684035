"""Signatures of the kinds that subjects make: EdDSA over Ed25519 (RFC 8037) and ES256 over P-256 (RFC 7518, 3.4)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping


def signature_holds(algorithm: str, jwk: Mapping[str, str], message: bytes, signature: bytes) -> bool:
    """Whether the key (a JWK) signed the message. ES256 signatures are r and s, 32 bytes each.

    Raises:
        ValueError: another algorithm or kind of key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        if (algorithm, jwk.get("kty"), jwk.get("crv")) == ("EdDSA", "OKP", "Ed25519"):
            Ed25519PublicKey.from_public_bytes(from_base64url(jwk["x"])).verify(signature, message)
            return True
        if (algorithm, jwk.get("kty"), jwk.get("crv")) == ("ES256", "EC", "P-256") and len(signature) == 64:
            x, y = (int.from_bytes(from_base64url(jwk[name]), "big") for name in ("x", "y"))
            pair = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            public.verify(utils.encode_dss_signature(*pair), message, ec.ECDSA(hashes.SHA256()))
            return True
    except (InvalidSignature, ValueError, KeyError):
        return False
    raise ValueError("signed in a way that is not known here: Ed25519 (EdDSA) and P-256 (ES256) are")


def to_base64url(data: bytes) -> str:
    """Without padding, as JWS has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """The bytes behind it.

    Raises:
        ValueError: it is none.
    """
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64url: {error}") from None
