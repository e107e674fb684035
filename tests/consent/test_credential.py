"""Consents that subjects signed: what is granted is what was signed, by whoever has the key."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from w2w_registry.consent import lifecycle
from w2w_registry.consent.credential import make_credential, open_credential
from w2w_registry.consent.policy import Upstream, decide
from w2w_registry.consent.reasons import ReasonCode
from w2w_registry.consent.records import Scope, Use
from w2w_registry.consent.rules import Rules

KEY = bytes(range(32))
NOW = datetime(2026, 5, 1, tzinfo=UTC)
SCOPE = Scope(
    purposes=("research", "film"), uses=(Use.TRAIN, Use.GENERATE), forbidden=("advertising",), derivatives=True,
    territory=("EU",), expires_at=datetime(2027, 1, 1, tzinfo=UTC),
)  # fmt: skip

BEFORE = (  # signed when the pseudonym was the id as it stands
    "eyJhbGciOiJFZERTQSIsImp3ayI6eyJjcnYiOiJFZDI1NTE5Iiwia3R5IjoiT0tQIiwieCI6IjdrUjVJaHJ1YWJuNnpNamtMWWJC"
    "azNYcU9tSVF2VnZaMFFsWG9ObEZhaTAifSwidHlwIjoidmMrand0In0.eyJAY29udGV4dCI6WyJodHRwczovL3d3dy53My5vcmcv"
    "bnMvY3JlZGVudGlhbHMvdjIiXSwiY3JlZGVudGlhbFN1YmplY3QiOnsiY29uc2VudCI6eyJkZXJpdmF0aXZlcyI6dHJ1ZSwiZm9y"
    "YmlkZGVuIjpbXSwicHVibGljYXRpb24iOmZhbHNlLCJwdXJwb3NlcyI6WyJmaWxtIl0sInRlcnJpdG9yeSI6bnVsbCwidXNlcyI6"
    "bnVsbH0sImlkIjoicy0xNyJ9LCJpYXQiOjE3OTU4MTEyMTAsImlzc3VlciI6ImRpZDpqd2s6ZXlKamNuWWlPaUpGWkRJMU5URTVJ"
    "aXdpYTNSNUlqb2lUMHRRSWl3aWVDSTZJamRyVWpWSmFISjFZV0p1Tm5wTmFtdE1XV0pDYXpOWWNVOXRTVkYyVm5aYU1GRnNXRzlP"
    "YkVaaGFUQWlmUSIsInR5cGUiOlsiVmVyaWZpYWJsZUNyZWRlbnRpYWwiLCJDb25zZW50Q3JlZGVudGlhbCJdLCJ2YWxpZFVudGls"
    "IjoiMjAyNy0xMi0zMVQyMzo1OTo1OS45OTk5OTlaIn0.WWI9hDdhdP2lJf_hZLZKOo677eM2FvuTBAzXuaYTTa5RjQ0wsyV1EbTJ"
    "OiKQQRW8kGRai45Ek4JufzVpsfMcAA"
)


@pytest.mark.parametrize("subject", ["s1", "Ärzte & Söhne/7", "urn:x:1"])
def test_its_ids_are_uris_and_its_terms_are_defined(subject: str) -> None:
    text = make_credential(subject, SCOPE, KEY)
    payload = json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))
    assert re.fullmatch(r"urn:w2w-registry:subject:[\w.~%-]+", payload["credentialSubject"]["id"], re.ASCII)
    assert payload["@context"] == ["https://www.w3.org/ns/credentials/v2", {"@vocab": "urn:w2w-registry:terms#"}]
    assert open_credential(text).subject == subject


def test_one_signed_before_that_is_read() -> None:
    assert open_credential(BEFORE).subject == "s-17"


def test_what_is_signed_is_what_is_granted() -> None:
    found = open_credential(make_credential("s1", SCOPE, KEY))
    assert (found.subject, found.scope) == ("s1", SCOPE)
    assert found.key == open_credential(make_credential("s2", Scope(), KEY)).key
    assert found.key != open_credential(make_credential("s1", SCOPE, bytes(32))).key


@given(st.data())
def test_any_changed_character_is_refused(data: st.DataObject) -> None:
    text = make_credential("s1", SCOPE, KEY)
    place = data.draw(st.integers(0, len(text) - 3))  # the last character has bits that base64 leaves unused
    other = data.draw(st.sampled_from("ABCDwxyz0189-_").filter(lambda c: c != text[place]))
    if text[place] != ".":
        with pytest.raises(ValueError, match=r"signature|signed|JWS|base64url"):
            open_credential(text[:place] + other + text[place + 1 :])


def test_passkeys_and_wallets_sign_with_p256() -> None:
    """ES256, raw r and s, as RFC 7518 wants; the same payload."""
    private = ec.generate_private_key(ec.SECP256R1())
    numbers = private.public_key().public_numbers()

    def text(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": text(numbers.x.to_bytes(32, "big")),
        "y": text(numbers.y.to_bytes(32, "big")),
    }
    payload = make_credential("s1", SCOPE, KEY).split(".")[1]
    head = text(json.dumps({"alg": "ES256", "typ": "vc+jwt", "jwk": jwk}).encode())
    r, s = utils.decode_dss_signature(private.sign(f"{head}.{payload}".encode(), ec.ECDSA(hashes.SHA256())))
    assert open_credential(f"{head}.{payload}.{text(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}").scope == SCOPE
    with pytest.raises(ValueError, match="signature"):
        open_credential(f"{head}.{payload}.{text(s.to_bytes(32, 'big') + r.to_bytes(32, 'big'))}")


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS256"])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    head, payload, signature = make_credential("s1", SCOPE, KEY).split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(header | {"alg": algorithm}).encode()).rstrip(b"=").decode()
    with pytest.raises(ValueError, match="not known here"):
        open_credential(f"{forged}.{payload}.{signature}")


def test_a_policy_that_demands_signatures_takes_no_others() -> None:
    asked = lifecycle.request("r1", "s1", SCOPE, NOW, "curator")
    plain = lifecycle.grant(asked, NOW, "curator")
    signed = lifecycle.grant(asked, NOW, "curator", signature=make_credential("s1", SCOPE, KEY))
    wider = lifecycle.grant(
        lifecycle.request("r2", "s1", Scope(purposes=("any",)), NOW, "curator"), NOW, "curator",
        signature=make_credential("s1", SCOPE, KEY),
    )  # fmt: skip
    others = lifecycle.grant(asked, NOW, "curator", signature=make_credential("s2", SCOPE, KEY))
    demanding = Rules(territory="DE", signed_consents=True)
    for record, allowed in ((plain, False), (signed, True), (wider, False), (others, False)):
        decision = decide(Use.GENERATE, [Upstream("s1", (record,))], demanding, NOW)
        assert decision.allowed is allowed
        assert allowed or decision.reasons[0].code is ReasonCode.UNSIGNED
        assert decide(Use.GENERATE, [Upstream("s1", (record,))], Rules(territory="DE"), NOW).allowed


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def passkey_signed(site: str = "studio.example", **changed: Any) -> str:
    """A consent as a browser and a passkey sign it (Web Authentication, level 3, 6.3.3 and 7.2)."""
    private = ec.derive_private_key(7, ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    x, y = (_text(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    payload = make_credential("s1", SCOPE, KEY).split(".")[1]
    header = {"alg": "ES256", "typ": "vc+jwt", "jwk": {"kty": "EC", "crv": "P-256", "x": x, "y": y}}
    protected = _text(json.dumps(header).encode())
    challenge = _text(hashlib.sha256(f"{protected}.{payload}".encode()).digest())
    said = {"type": "webauthn.get", "challenge": challenge, "origin": f"https://{site}", "crossOrigin": False}
    client = json.dumps(said | changed.get("said", {})).encode()
    flags = changed.get("flags", 0x05)
    authenticator = hashlib.sha256(changed.get("name", site).encode()).digest() + bytes([flags]) + bytes(4)
    signature = private.sign(authenticator + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
    answer = {"authenticatorData": _text(authenticator), "clientDataJSON": _text(client)}
    jws = {"protected": protected, "payload": payload, "signature": _text(signature), "header": {"webauthn": answer}}
    return json.dumps(jws | changed.get("jws", {}))


def test_a_passkey_answers_to_what_is_signed() -> None:
    found = open_credential(passkey_signed())
    assert (found.subject, found.scope, found.origin) == ("s1", SCOPE, "https://studio.example")
    assert open_credential(passkey_signed("sign.studio.example", name="studio.example")).key == found.key


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"said": {"challenge": _text(bytes(32))}}, "something else"),
        ({"said": {"type": "webauthn.create"}}, "something else"),
        ({"said": {"crossOrigin": True}}, "within another site"),
        ({"said": {"origin": "https://elsewhere.example"}}, "the site that asked"),
        ({"name": "elsewhere.example"}, "the site that asked"),
        ({"flags": 0x01}, "who was there"),
        ({"flags": 0x04}, "who was there"),
        ({"jws": {"signature": _text(bytes(64))}}, "does not hold"),
        ({"jws": {"payload": make_credential("s2", Scope(purposes=("any",)), KEY).split(".")[1]}}, "something else"),
        ({"jws": {"header": {}}}, "flattened"),
        ({"jws": {"header": {"webauthn": {"authenticatorData": "AA"}}}}, "missing"),
        ({"jws": {"header": {"webauthn": 7}}}, "missing"),
        ({"jws": {"payload": 7}}, "flattened"),
    ],
)
def test_what_a_passkey_did_not_sign_is_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        open_credential(passkey_signed(**changed))
