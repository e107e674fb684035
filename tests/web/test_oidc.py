"""Signing in by OIDC, with a small provider made here: who comes in as what, and what does not hold."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from tests.web.conftest import ORIGIN, TOKEN, Build
from w2w_registry.errors import SettingError
from w2w_registry.services.audit import log
from w2w_registry.services.registry import Registry
from w2w_registry.web.access import Role
from w2w_registry.web.oidc import Oidc, oidc_of

jwt = pytest.importorskip("joserfc.jwt")
jwk = pytest.importorskip("joserfc.jwk")
pytest.importorskip("authlib")
SECRET = "the secret of the client"
HTML = {"accept": "text/html"}


class Provider:
    """Discovery, keys and tokens; ``claims`` and ``key`` are what the next ID token says and is signed with."""

    def __init__(self) -> None:
        self.key = self.own = jwk.RSAKey.generate_key(2048, {"kid": "1"})
        self.alg = "RS256"
        self.codes: dict[str, dict[str, Any]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                base = provider.issuer
                keys = {"keys": [provider.own.as_dict(private=False)]}
                about = {
                    "issuer": base, "authorization_endpoint": base + "/authorize", "token_endpoint": base + "/token",
                    "jwks_uri": base + "/keys",
                }  # fmt: skip
                self.answer({"/keys": keys, "/.well-known/openid-configuration": about}[self.path])

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                known = provider.codes.pop(form["code"][0], None)
                client = "Basic " + base64.b64encode(f"gallery:{SECRET}".encode()).decode()
                challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"][0].encode()).digest())
                good = known and self.headers["authorization"] == client
                if not good or known["challenge"] != challenge.rstrip(b"=").decode():
                    self.answer({"error": "invalid_grant"}, 400)
                    return
                header = {"alg": provider.alg, "kid": "1"}
                token = jwt.encode(header, known["claims"], provider.key, algorithms=["RS256", "HS256", "none"])
                self.answer({"access_token": "x", "token_type": "Bearer", "id_token": token})

            def answer(self, value: Any, status: int = 200) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def approve(self, location: str, **changed: Any) -> str:
        """What the provider does when somebody has signed in there: the address it sends the browser back to."""
        asked = {key: value[0] for key, value in parse_qs(urlsplit(location).query).items()}
        assert (asked["client_id"], asked["response_type"], asked["code_challenge_method"]) == (
            "gallery",
            "code",
            "S256",
        )
        at = int(time.time())
        claims = {
            "iss": self.issuer, "aud": "gallery", "sub": "17", "exp": at + 300, "iat": at, "nonce": asked["nonce"],
            "email": "alice@acme.example",
        }  # fmt: skip
        self.codes["c"] = {"claims": {**claims, **changed}, "challenge": asked["code_challenge"]}
        return f"/auth/callback?code=c&state={asked['state']}"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def oidc(provider: Provider) -> Oidc:
    provider.key, provider.alg = provider.own, "RS256"
    return Oidc(
        provider.issuer,
        "gallery",
        SECRET,
        f"{ORIGIN}/auth/callback",
        roles={"alice@acme.example": Role.STEWARD},
        groups={"models": Role.MAKER},
    )


@pytest.fixture
def client(build: Build, oidc: Oidc) -> TestClient:
    return TestClient(build(people=oidc), base_url=ORIGIN, follow_redirects=False)


def test_somebody_signs_in_and_acts_in_their_own_name(
    client: TestClient, provider: Provider, registry: Registry
) -> None:
    sent = client.get("/identities/p0001?x=1", headers=HTML)
    assert sent.status_code == 303
    assert sent.headers["location"].startswith(provider.issuer + "/authorize?")
    back = client.get(provider.approve(sent.headers["location"]), headers=HTML)
    assert (back.status_code, back.headers["location"]) == (303, "/identities/p0001?x=1")
    assert "HttpOnly" in back.headers["set-cookie"]
    page = client.get("/", headers=HTML)
    assert page.status_code == 200
    assert "alice@acme.example · steward" in page.text
    csrf = page.text.partition('data-csrf="')[2].partition('"')[0]
    form = {"csrf": csrf, "identity": "p0001", "tags": "a=1"}
    assert client.post("/tags", data=form, headers={"origin": ORIGIN}).status_code == 303
    assert log.events_list(registry, action="tag.")[-1]["actor"] == "alice@acme.example"


def test_programs_and_the_token_are_not_sent_away_but_refused(client: TestClient) -> None:
    assert client.get("/api/v1/identities", headers=HTML).status_code == 401
    assert client.get("/static/style.css").status_code == 401
    assert client.get(f"/?token={TOKEN}").status_code in (401, 303)
    shut = client.get("/api/v1/identities", headers={"authorization": f"Bearer {TOKEN}"})
    assert (shut.status_code, "printed" in shut.text, "sign in first" in shut.text) == (401, False, True)
    assert client.post("/tags", headers=HTML).status_code == 401


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": "another"},
        {"aud": "another"},
        {"iss": "http://evil.example"},
        {"exp": 1},
        {"email": None},
        {"email": "alice@acme.example", "email_verified": False},
        {"email": "nobody@acme.example"},
        {"email": "a\nb"},
        {"email": "nobody@acme.example", "groups": ["others"]},
    ],
)
def test_what_does_not_hold_lets_nobody_in(client: TestClient, provider: Provider, changed: dict[str, Any]) -> None:
    sent = client.get("/", headers=HTML)
    back = client.get(provider.approve(sent.headers["location"], **changed), headers=HTML)
    assert back.status_code == 403
    assert "set-cookie" not in back.headers
    assert client.get("/", headers=HTML).status_code == 303


@pytest.mark.filterwarnings("ignore:JWS algorithm")
@pytest.mark.parametrize("alg", ["HS256", "none", "another key"])
def test_a_token_of_anothers_making_lets_nobody_in(client: TestClient, provider: Provider, alg: str) -> None:
    if alg == "another key":
        provider.key = jwk.RSAKey.generate_key(2048, {"kid": "1"})
    else:
        provider.key, provider.alg = jwk.OctKey.import_key(SECRET), alg
    sent = client.get("/", headers=HTML)
    assert client.get(provider.approve(sent.headers["location"]), headers=HTML).status_code == 403


def test_an_answer_belongs_to_its_question(client: TestClient, provider: Provider, build: Build, oidc: Oidc) -> None:
    mine = provider.approve(client.get("/", headers=HTML).headers["location"])
    other = TestClient(build(people=oidc), base_url=ORIGIN, follow_redirects=False)
    assert other.get(mine, headers=HTML).status_code == 403  # another browser: no question was asked there
    assert client.get(mine.replace("state=", "state=x"), headers=HTML).status_code == 403
    assert client.get("/auth/callback?error=access_denied&state=x", headers=HTML).status_code == 403
    client.cookies.clear()
    client.cookies.set("w2w_gallery_sign_in", "e30.00")
    assert client.get(mine, headers=HTML).status_code == 403


def test_groups_give_roles_and_roles_that_were_taken_are_gone(
    client: TestClient, provider: Provider, oidc: Oidc, build: Build
) -> None:
    sent = client.get("/", headers=HTML)
    member = {"email": "bob@acme.example", "groups": ["models"]}
    client.get(provider.approve(sent.headers["location"], **member), headers=HTML)
    assert "bob@acme.example · maker" in client.get("/", headers=HTML).text
    assert client.get("/compliance", headers=HTML).status_code == 403
    fewer = Oidc(provider.issuer, "gallery", SECRET, f"{ORIGIN}/auth/callback", roles=oidc.roles)
    later = TestClient(build(people=fewer), base_url=ORIGIN, follow_redirects=False, cookies=client.cookies)
    assert later.get("/", headers=HTML).status_code == 303


def test_settings_are_checked(tmp_path: Path) -> None:
    (tmp_path / "s").write_text(SECRET)
    good = {
        "issuer": "https://id.example", "client_id": "gallery", "secret_file": "s", "roles": {"a": "maker"},
        "redirect": "https://models.example/auth/callback",
    }  # fmt: skip
    made = oidc_of({"oidc": good}, tmp_path)
    assert made is not None
    assert (made.path, made.secure, made.roles) == ("/auth/callback", True, {"a": Role.MAKER})
    assert oidc_of({}, tmp_path) is None
    for bad in (
        {"issuer": ""}, {"issuer": "http://id.example"}, {"redirect": "https://models.example/"}, {"roles": {"a": "x"}},
        {"secret_file": "none"}, {"unknown": 1}, {"default_role": "king"},
    ):  # fmt: skip
        with pytest.raises(SettingError):
            oidc_of({"oidc": {**good, **bad}}, tmp_path)
    with pytest.raises(SettingError):
        oidc_of({"oidc": good, "user_header": "X-User"}, tmp_path)
