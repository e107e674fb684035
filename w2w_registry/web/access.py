"""Who asks, and what they may do: a token and the cookie made from it, or a name that a trusted proxy vouches for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from w2w_registry.errors import SettingError

SESSION_SECONDS: Final = 30 * 24 * 3600
MIN_TOKEN: Final = 16


class Right(StrEnum):
    """What a route needs. ``LOOK`` and ``AUDIT`` change nothing."""

    LOOK = "look"
    MAKE = "make"
    STEWARD = "steward"
    AUDIT = "audit"


READING: Final = frozenset({Right.LOOK, Right.AUDIT})


class Role(StrEnum):
    """A team's roles. A local user with the token is a ``steward``: everything is theirs."""

    VIEWER = "viewer"
    MAKER = "maker"
    STEWARD = "steward"
    AUDITOR = "auditor"


RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    Role.VIEWER: frozenset({Right.LOOK}),
    Role.MAKER: frozenset({Right.LOOK, Right.MAKE}),
    Role.STEWARD: frozenset(Right),
    Role.AUDITOR: frozenset({Right.LOOK, Right.AUDIT}),
}


@dataclass(frozen=True)
class Principal:
    """Who asks. ``ambient``: recognised by something a browser sends by itself, so that a form needs ``csrf`` too."""

    actor: str
    role: Role
    rights: frozenset[Right]
    ambient: bool
    csrf: str


@dataclass(frozen=True)
class Proxy:
    """A reverse proxy that signs people in: its addresses, the header with the name, and the names' roles."""

    header: str
    addresses: frozenset[str]
    roles: Mapping[str, Role] = field(default_factory=dict)
    default: Role | None = None


class People(Protocol):
    """Whoever signs people in: what a name may do now, given the role its session began with."""

    def role_of(self, name: str, said: str) -> Role | None: ...


@dataclass(frozen=True)
class Access:
    """How requests are recognised. ``token`` opens everything; with ``proxy`` or ``people`` (who signed in elsewhere)
    only names from there do.

    ``read_only`` takes the rights to change anything away from everybody. ``cookie`` carries the port, because
    cookies are shared by every server of one host.
    """

    token: str
    actor: str
    cookie: str = "w2w_gallery"
    read_only: bool = False
    proxy: Proxy | None = None
    people: People | None = None
    clock: Callable[[], float] = time.time

    def by_token(self, given: str) -> Principal | None:
        """The principal of a bearer token."""
        if self.named or not _same(given, self.token):
            return None
        return self._principal(self.actor, Role.STEWARD, ambient=False, session=given)

    def by_cookie(self, value: str) -> Principal | None:
        """The principal of a session cookie, while it lasts."""
        expiry, _, signature = value.partition(".")
        if self.people is not None:
            return self._by_name(value)
        if self.proxy is not None or not expiry.isdigit() or len(expiry) > 12:
            return None
        if not _same(signature, self._sign("session", expiry)) or int(expiry) < self.clock():
            return None
        return self._principal(self.actor, Role.STEWARD, ambient=True, session=value)

    def by_proxy(self, address: str, name: str | None) -> Principal | None:
        """The principal a trusted proxy names; nobody when somebody else sends the header, or no role is theirs."""
        proxy = self.proxy
        if proxy is None or not name or address not in proxy.addresses:
            return None
        role = proxy.roles.get(name, proxy.default)
        return None if role is None else self._principal(name, role, ambient=True, session=f"proxy {name}")

    def new_session(self) -> str:
        """A cookie's value: when it ends, signed. A token given anew makes every older cookie worthless."""
        expiry = str(int(self.clock()) + SESSION_SECONDS)
        return f"{expiry}.{self._sign('session', expiry)}"

    @property
    def named(self) -> bool:
        """Whether somebody else says who comes, so that the token opens nothing."""
        return self.proxy is not None or self.people is not None

    def new_named_session(self, name: str, role: Role) -> str:
        """A cookie's value for somebody who signed in: when it ends, who and as what, signed."""
        expiry = str(int(self.clock()) + SESSION_SECONDS)
        who = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        return f"{expiry}.{who}.{role}.{self._sign('named', f'{expiry}.{who}.{role}')}"

    def _by_name(self, value: str) -> Principal | None:
        said, _, signature = value.rpartition(".")
        parts = said.split(".")
        if self.people is None or len(parts) != 3 or not _same(signature, self._sign("named", said)):
            return None
        if int(parts[0]) < self.clock():
            return None
        name = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)).decode()
        role = self.people.role_of(name, parts[2])
        return None if role is None else self._principal(name, role, ambient=True, session=value)

    def seal(self, text: str) -> str:
        """``text`` as a cookie's value that only this server can have made."""
        body = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        return f"{body}.{self._sign('sealed', body)}"

    def unseal(self, value: str) -> str | None:
        """What was sealed; None when somebody else made it."""
        body, _, signature = value.partition(".")
        if not _same(signature, self._sign("sealed", body)):
            return None
        return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()

    def _principal(self, actor: str, role: Role, *, ambient: bool, session: str) -> Principal:
        rights = RIGHTS[role] & READING if self.read_only else RIGHTS[role]
        return Principal(actor, role, rights, ambient, self._sign("csrf", session))

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self.token.encode(), f"{what}\0{text}".encode(), hashlib.sha256).hexdigest()


def new_token() -> str:
    """A token nobody guesses: 256 bits."""
    return secrets.token_urlsafe(32)


def check_token(token: str) -> str:
    """``token`` if it is long enough and can stand in a URL and a header as it is.

    Raises:
        SettingError.
    """
    if len(token) < MIN_TOKEN or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum():
        reason = f"use {MIN_TOKEN} or more letters, digits, '-' and '_'"
        raise SettingError(setting="[[token]]", value="", reason=reason)
    return token


def proxy_of(options: Mapping[str, Any]) -> Proxy | None:
    """What the ``[web]`` table of registry.toml says of a proxy; None when it names no ``user_header``.

    Raises:
        SettingError: no addresses, or a role there is not.
    """
    header = options.get("user_header")
    if not header:
        return None
    addresses = options.get("proxies")
    if not isinstance(addresses, list) or not addresses:
        reason = "user_header needs proxies: the addresses allowed to send it, as in proxies = ['127.0.0.1']"
        raise SettingError(setting="[web] proxies", value=addresses or "", reason=reason)
    roles = {str(name): role_named(role) for name, role in dict(options.get("roles", {})).items()}
    default = options.get("default_role")
    return Proxy(
        str(header).lower(), frozenset(map(str, addresses)), roles, None if default is None else role_named(default)
    )


def role_named(text: Any) -> Role:
    """A role by its name.

    Raises:
        SettingError.
    """
    try:
        return Role(str(text))
    except ValueError:
        reason = f"roles are {', '.join(Role)}"
        raise SettingError(setting="[web] roles", value=text, reason=reason) from None


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
