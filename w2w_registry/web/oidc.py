"""Signing in with an OpenID Connect provider (authorization code with PKCE), for teams; off by default.

The guard asks for :meth:`Oidc.begin` where a browser comes without a session, and for :meth:`Oidc.finish` when it comes
back. What must survive the way (state, nonce, PKCE verifier, the page asked for) travels in a signed cookie of ten
minutes. Authlib speaks the protocol; the signature, issuer, audience, expiry and nonce of the ID token are checked.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from w2w_registry.errors import BadFile, MissingExtra, SettingError
from w2w_registry.files import read_text
from w2w_registry.web.access import Role, role_named
from w2w_registry.web.problems import Problem

_LIMIT = 1 << 16

MINUTES: Final = 10
LEEWAY: Final = 60
TIMEOUT: Final = 10.0
SCOPE: Final = "openid email profile"


@dataclass(frozen=True)
class Person:
    """Who signed in, and as what."""

    name: str
    role: Role


@dataclass(frozen=True, eq=False)
class Oidc:
    """A provider and this gallery's registration with it. ``redirect`` is the public address of ``/auth/callback``.

    ``claim`` names the actor. The role is the one ``roles`` gives that name, else the first of its groups' (claim
    ``groups_claim``) in ``groups``, else ``default``; without any nobody gets in.
    """

    issuer: str
    client_id: str
    secret: str
    redirect: str
    claim: str = "email"
    groups_claim: str = "groups"
    roles: Mapping[str, Role] = field(default_factory=dict)
    groups: Mapping[str, Role] = field(default_factory=dict)
    default: Role | None = None
    clock: Callable[[], float] = time.time
    _found: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def path(self) -> str:
        return urlsplit(self.redirect).path

    @property
    def secure(self) -> bool:
        """Whether browsers come by TLS, so that cookies are for TLS only."""
        return self.redirect.startswith("https://")

    def begin(self, back: str) -> tuple[str, str]:
        """The provider's address to go to, and what has to be remembered until the browser is back.

        Raises:
            Problem: the provider does not answer.
        """
        verifier, state, nonce = (secrets.token_urlsafe(48) for _ in range(3))
        with self._client() as client:
            address, _ = client.create_authorization_url(
                self._metadata()["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
            )
        kept = {"v": verifier, "s": state, "n": nonce, "b": back, "t": int(self.clock()) + 60 * MINUTES}
        return str(address), json.dumps(kept, separators=(",", ":"))

    def finish(self, query: Mapping[str, str], remembered: str) -> tuple[Person, str]:
        """Who came back, and the page they had asked for.

        Raises:
            Problem: refused by the provider, forged, stale, or a person without a role here.
        """
        kept = _read(remembered)
        if kept["t"] < self.clock():
            raise Problem(403, "sign-in", "signing in took too long; open the page again")
        if not secrets.compare_digest(str(query.get("state", "")).encode(), str(kept["s"]).encode()):
            raise Problem(403, "sign-in", "that is not the answer to this browser's question; open the page again")
        if "code" not in query:
            raise Problem(403, "sign-in", "the provider did not sign you in")
        return self._person(self._claims(query["code"], kept)), str(kept["b"])

    def _claims(self, code: str, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        import httpx
        from authlib.common.errors import AuthlibBaseError
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        about = self._metadata()
        try:
            with self._client() as client:
                token = client.fetch_token(about["token_endpoint"], code=code, code_verifier=kept["v"])
            keys = KeySet.import_key_set(httpx.get(about["jwks_uri"], timeout=TIMEOUT).raise_for_status().json())
            # Only signatures with a public key: "none" and the client's own secret prove nothing about the provider.
            found = jwt.decode(str(token["id_token"]), keys, algorithms=["RS256", "ES256", "PS256", "RS512", "ES512"])
            rules = jwt.JWTClaimsRegistry(
                now=int(self.clock()),
                leeway=LEEWAY,
                iss={"essential": True, "value": self.issuer},
                aud={"essential": True, "value": self.client_id},
                exp={"essential": True},
                nonce={"essential": True, "value": kept["n"]},
            )
            rules.validate(found.claims)
        except (AuthlibBaseError, JoseError, httpx.HTTPError, KeyError, ValueError, TypeError):
            raise Problem(403, "sign-in", "the provider's answer does not hold; open the page again") from None
        return dict(found.claims)

    def _person(self, claims: Mapping[str, Any]) -> Person:
        name = claims.get(self.claim)
        if not isinstance(name, str) or not name.strip() or len(name) > 200 or not name.isprintable():
            raise Problem(403, "sign-in", f"the provider says nothing of you by the name of {self.claim!r}")
        if self.claim == "email" and claims.get("email_verified") is False:
            raise Problem(403, "sign-in", "the provider has not verified your address")
        groups = claims.get(self.groups_claim)
        held = [self.groups[g] for g in groups if g in self.groups] if isinstance(groups, list) else []
        role = self.roles.get(name) or next(iter(held), self.default)
        if role is None:
            raise Problem(403, "role", "you are signed in, but have no role here")
        return Person(name, role)

    def role_of(self, name: str, said: str) -> Role | None:
        """The role of a session that was begun with ``said``: a name whose role was changed since has the new one."""
        if name in self.roles:
            return self.roles[name]
        known = {*self.groups.values(), *({self.default} if self.default else ())}
        return Role(said) if said in list(Role) and Role(said) in known else None

    def _metadata(self) -> dict[str, Any]:
        """What the provider says of itself (OpenID Connect Discovery), asked once."""
        import httpx

        with self._lock:
            if not self._found:
                try:
                    place = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
                    found = httpx.get(place, timeout=TIMEOUT).raise_for_status().json()
                    if found["issuer"] != self.issuer:
                        raise ValueError("another issuer")
                    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
                    self._found.update({name: str(found[name]) for name in names})
                except (httpx.HTTPError, KeyError, ValueError, TypeError):
                    raise Problem(502, "sign-in", "the sign-in provider does not answer; try again later") from None
            return self._found

    def _client(self) -> Any:
        try:
            from authlib.integrations.httpx_client import OAuth2Client
        except ModuleNotFoundError as error:
            raise MissingExtra(package=error.name or "authlib", extra="oidc", feature="signing in by OIDC") from None
        return OAuth2Client(
            self.client_id,
            self.secret,
            scope=SCOPE,
            redirect_uri=self.redirect,
            code_challenge_method="S256",
            timeout=TIMEOUT,
        )


def oidc_of(options: Mapping[str, Any], home: Path) -> Oidc | None:
    """What ``[web.oidc]`` of registry.toml says; None when there is no such table.

    Raises:
        SettingError.
    """
    table = options.get("oidc")
    if table is None:
        return None

    def wrong(reason: str) -> SettingError:
        return SettingError(setting="[web.oidc]", value="", reason=reason)

    known = {"issuer", "client_id", "secret_file", "redirect", "claim", "groups_claim", "roles", "groups"}
    if not isinstance(table, dict) or set(table) - known - {"default_role"}:
        raise wrong(f"its keys are {', '.join(sorted(known | {'default_role'}))}")
    missing = [name for name in ("issuer", "client_id", "secret_file", "redirect") if not table.get(name)]
    if missing:
        raise wrong(f"needs {', '.join(missing)}")
    if options.get("user_header"):
        raise wrong("people are signed in by a proxy (user_header) or by OIDC, not by both")
    for name in ("issuer", "redirect"):
        parts = urlsplit(str(table[name]))
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
            raise wrong(f"{name} begins with https:// (http:// only on this machine)")
    if not urlsplit(str(table["redirect"])).path.endswith("/auth/callback"):
        raise wrong("redirect is the public address of /auth/callback")
    try:
        secret = read_text(home / str(table["secret_file"]), limit=_LIMIT).strip()
    except BadFile:
        raise wrong("secret_file cannot be read") from None
    default = table.get("default_role")
    return Oidc(
        str(table["issuer"]),
        str(table["client_id"]),
        secret,
        str(table["redirect"]),
        str(table.get("claim", "email")),
        str(table.get("groups_claim", "groups")),
        {str(name): role_named(role) for name, role in dict(table.get("roles", {})).items()},
        {str(name): role_named(role) for name, role in dict(table.get("groups", {})).items()},
        None if default is None else role_named(default),
    )


def _read(remembered: str) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(remembered)
        return {"v": str(kept["v"]), "s": str(kept["s"]), "n": str(kept["n"]), "b": str(kept["b"]), "t": int(kept["t"])}
    except (ValueError, KeyError, TypeError):
        raise Problem(403, "sign-in", "this browser did not begin to sign in here; open the page again") from None
