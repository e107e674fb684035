"""Sign a consent yourself, on your own machine. Needs Python and the package `cryptography`, nothing of the registry.

    python sign_consent.py PSEUDONYM --purpose research [--purpose …] [--derivatives] [--publication]
                           [--until 2027-01-01] [--territory EU …] --key me.pem --out consent.jws

PSEUDONYM is the name you are known by in the registry: ask whoever asks for your consent. Send them `consent.jws`; they
record it with `w2w-reg consent grant PSEUDONYM --signed consent.jws`. What you do not name is not granted, and nobody
can add to it. `me.pem` is your key; it is made at the first use. Keep it: the next consent has to be signed by it too.

The file is a W3C verifiable credential (VC 2.0) secured as a JWS with Ed25519 (RFC 7515, RFC 8037).
"""

import argparse
import base64
import json
import os
from datetime import UTC, datetime
from urllib.parse import quote

from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def packed(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def key_at(path):
    if os.path.exists(path):
        with open(path, "rb") as stream:
            key = pem.load_pem_private_key(stream.read(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise SystemExit(f"{path} holds no Ed25519 key")
        return key
    key = Ed25519PrivateKey.generate()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    print(f"made a key for you: {path} (keep it)")
    return key


def signed(subject, consent, key, until=None):
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().public_bytes_raw())}
    now = datetime.now(UTC).replace(microsecond=0)
    payload = {
        "@context": ["https://www.w3.org/ns/credentials/v2", {"@vocab": "urn:w2w-registry:terms#"}],
        "type": ["VerifiableCredential", "ConsentCredential"],
        "issuer": f"did:jwk:{text(packed(jwk))}",
        "iat": int(now.timestamp()),
        "validFrom": now.isoformat(),
        "credentialSubject": {"id": f"urn:w2w-registry:subject:{quote(subject, safe='')}", "consent": consent},
    }
    if until:
        payload["validUntil"] = f"{until}T23:59:59+00:00"
    parts = ({"alg": "EdDSA", "typ": "vc+jwt", "jwk": jwk}, payload)
    message = ".".join(text(packed(part)) for part in parts)
    return f"{message}.{text(key.sign(message.encode()))}"


def main():
    parser = argparse.ArgumentParser(description="Sign a consent yourself.")
    parser.add_argument("subject", help="the pseudonym you are known by")
    parser.add_argument("--purpose", action="append", required=True, help="what for; may be given several times")
    parser.add_argument("--use", action="append", help="only these uses: train, edit, generate…")
    parser.add_argument("--forbid", action="append", default=[], help="a use or purpose you forbid")
    parser.add_argument("--derivatives", action="store_true", help="edits and mixes of your model are allowed")
    parser.add_argument("--publication", action="store_true", help="your model may be published")
    parser.add_argument("--territory", action="append", help="only in DE, US, EU…")
    parser.add_argument("--until", help="the last day, as 2027-01-01")
    parser.add_argument("--key", required=True, help="your key; made at the first use")
    parser.add_argument("--out", required=True, help="the file to write")
    given = parser.parse_args()
    consent = {
        "purposes": given.purpose,
        "uses": given.use,
        "forbidden": given.forbid,
        "derivatives": given.derivatives,
        "publication": given.publication,
        "territory": given.territory,
    }
    token = signed(given.subject, consent, key_at(given.key), given.until)
    with open(given.out, "x", encoding="ascii") as stream:
        stream.write(token + "\n")
    print(f"signed: {given.out}")
    for name, value in consent.items():
        print(f"  {name}: {value if value not in (None, []) else 'any' if value is None else 'none'}")


if __name__ == "__main__":
    main()
