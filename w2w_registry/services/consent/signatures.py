"""Consents that subjects signed: which file holds one, whose key it is, when it was signed, and whether the policy
demands one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog.consents import last_no
from w2w_registry.commands import command
from w2w_registry.consent.credential import Credential, make_credential, open_credential
from w2w_registry.consent.records import Scope, plain
from w2w_registry.errors import BadFile, Conflict, IntegrityError, UsageError, storage_error
from w2w_registry.files import read_bytes, read_text
from w2w_registry.records import Result, check_name
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.registry import Registry

_LIMIT = 1 << 16
_FAST: Final = timedelta(minutes=5)
"""How far a subject's clock may be ahead of ours."""


def read_terms(
    registry: Registry, subject: str, scope: Scope | None, signed: Path | None
) -> tuple[str | None, Scope | None]:
    """The signed consent in a file, its signature checked, and the terms it gives; without one ``scope`` as it is.

    Raises:
        BadFile: it holds none, the signature does not hold, or it is another subject's. UsageError: more is asked for
        than was signed, or the policy takes signed consents only and this one is not.
    """
    signature = None if signed is None else _read_signed(signed)
    if signature is not None:
        scope = _scope_of(signature, subject, scope, str(signed))
    _check_demanded(registry, subject, signature)
    return signature, scope


@dataclass(frozen=True, eq=False)
class Signed(Result):
    """A consent that its subject signed: its terms and file; the key's file, whether that was made, its thumbprint."""

    subject: str
    scope: Mapping[str, Any]
    path: str
    key: str
    key_made: bool
    thumbprint: str


def sign(subject: str, scope: Scope, key: Path, out: Path) -> Signed:
    """Sign a consent as the subject, with no registry at hand: ``out`` is the file for ``consent grant --signed``.

    Args:
        key: an Ed25519 private key (PKCS#8 PEM). When there is no such file, one is made there, readable by its owner
            alone.

    Raises:
        UsageError: no purpose is granted. BadFile: the key file holds no such key. Conflict: ``out`` is there already.
        BadName, StorageError.
    """
    subject = check_name(subject, "subject")
    if not scope.purposes:
        raise UsageError(reason="it grants nothing", hint="say what for, with [[purpose]]")
    if out.exists():
        raise Conflict(what="file", name=str(out), reason="exists; name another")
    made = not key.exists()
    private = _new_key(key) if made else _read_key(key)
    text = make_credential(subject, scope, private)
    _write(out, f"{text}\n".encode())
    signed = open_credential(text)
    return Signed(subject, plain(signed.scope), str(out), str(key), made, signed.key)


def _read_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(read_bytes(path, limit=_LIMIT), None)
    except (ValueError, TypeError):
        raise BadFile(path=str(path), reason="no unencrypted private key in PEM") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise BadFile(path=str(path), reason="not an Ed25519 key")
    return found.private_bytes_raw()


def _new_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    _write(path, key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()), mode=0o600)
    return key.private_bytes_raw()


def _write(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    try:
        write_atomic(path, data, mode=mode)
    except OSError as error:
        raise storage_error(path, error) from error


def _read_signed(path: Path) -> str:
    """The signed consent in a file, its signature checked.

    Raises:
        BadFile: it holds none, or the signature does not hold.
    """
    text = read_text(path, limit=_LIMIT).strip()
    try:
        open_credential(text)
    except ValueError as error:
        raise BadFile(path=str(path), reason=f"no signed consent: {error}") from None
    return text


def _scope_of(signature: str, subject: str, scope: Scope | None, where: str) -> Scope:
    """The terms that were signed, or ``scope`` where it asks for no more.

    Raises:
        BadFile: it is another subject's. UsageError: more is asked for than was signed.
    """
    found = open_credential(signature)
    if found.subject != subject:
        raise BadFile(path=where, reason=f"it is the consent of {found.subject!r}, not of {subject!r}")
    if scope is not None and not scope.within(found.scope):
        raise UsageError(
            reason="more is asked for than the subject signed", hint="leave the options out: the file says"
        )
    return scope or found.scope


def check_key(session: Session, subject: str, signature: str) -> None:
    """The first signed consent of a subject fixes their key.

    Raises:
        IntegrityError: an earlier one was signed with another.
    """
    new = open_credential(signature)
    for record in load_records(session, [subject], history=False).get(subject, ()):
        if record.signature is not None and (old := _opened(record.signature)) is not None and old.key != new.key:
            raise IntegrityError(
                what="signed consent of", name=subject, expected=f"the key {old.key[:16]}", found=f"{new.key[:16]}"
            )


def check_time(session: Session, subject: str, signature: str, present: datetime, where: str) -> None:
    """A new signed consent says when it was signed: after the last time that the subject took back or narrowed what
    they had granted, whether or not anything else is still known of it.

    Raises:
        BadFile: it does not say when, it was signed before that, or in the future.
    """
    at, again = (
        open_credential(signature).signed_at,
        f"ask {subject} to sign a new one: {command('consent sign', subject, '…')}",
    )
    if at is None:
        raise BadFile(path=where, reason="it does not say when it was signed (iat)", hint=again)
    if at > present + _FAST:
        raise BadFile(
            path=where,
            reason=f"it was signed in the future ({_day(at)}; here it is {_day(present)})",
            hint=f"set the clock that is wrong, and {again}",
        )
    no = last_no(session, subject)
    if no is not None and at <= no.at:
        raise BadFile(path=where, reason=f"signed {_day(at)}, before {subject} {no.what} ({_day(no.at)})", hint=again)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _check_demanded(registry: Registry, subject: str, signature: str | None) -> None:
    """Raise UsageError when the policy takes signed consents only, and this one is not."""
    with registry.catalog.read() as session:
        demanded = gate.rules_of(registry, session).signed_consents
    if demanded and signature is None:
        raise UsageError(
            reason=f"this registry takes only consents that {subject} signed (signed_consents in its policy)",
            hint="give the file with [[signed]]",
        )


def _opened(signature: str) -> Credential | None:
    try:
        return open_credential(signature)
    except ValueError:
        return None
