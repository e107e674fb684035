"""Ed25519 keys kept as files: ``NAME.key``, readable by its owner only, and ``NAME.pub`` beside it, both in hex."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from w2w_registry.artifacts import write_atomic
from w2w_registry.audit import checkpoint as signing
from w2w_registry.errors import BadFile, SettingError, storage_error
from w2w_registry.files import read_text

_LIMIT = 1 << 10

_KEY_BYTES = 32


def public_key(folder: Path, name: str) -> bytes | None:
    """The public key; None when nothing was signed yet.

    Raises:
        SettingError: the file is not a key.
    """
    path = folder / f"{name}.pub"
    try:
        return bytes.fromhex(read_text(path, limit=_LIMIT).strip()) if path.exists() else None
    except BadFile as error:
        raise SettingError(setting=str(path), value="", reason=error.fields["reason"]) from None
    except ValueError as error:
        raise SettingError(setting=str(path), value="", reason=f"not a public key: {error}") from None


def private_key(folder: Path, name: str, *, used: bool = False) -> bytes:
    """The signing key, made at its first use, readable by its owner only. ``used``: something is signed with it
    already, so that another would only be taken for a forger's.

    A key file appears whole or not at all; an empty one, which only an older release could leave, never signed
    anything when there is no public key beside it, and is made anew.

    Raises:
        SettingError: the file is not a key, or gone. StorageError: it cannot be written.
    """
    path, public = folder / f"{name}.key", folder / f"{name}.pub"
    try:
        if not path.exists():
            raise FileNotFoundError
        text = read_text(path, limit=_LIMIT).strip()
        if not text and not public.exists():
            path.unlink()
            raise FileNotFoundError
        key = _key_of(text)
    except FileNotFoundError:
        if used or public.exists():
            gone = "the key that signed before is gone; restore it from a backup"
            raise SettingError(setting=str(path), value="", reason=gone) from None
        key = signing.new_key()
        if not _write_new(path, key.hex().encode() + b"\n"):  # another process was first
            return private_key(folder, name, used=used)
    except (BadFile, OSError, ValueError) as error:
        reason = error.fields["reason"] if isinstance(error, BadFile) else error
        raise SettingError(
            setting=str(path), value="", reason=f"not a private key: {reason}; restore it from a backup"
        ) from None
    if not public.exists():
        write_atomic(public, signing.public_key(key).hex().encode() + b"\n")
    return key


def fault(folder: Path, name: str) -> str | None:
    """What is wrong with a signing key; None when nothing is, or none was made yet. Nothing is written."""
    path = folder / f"{name}.key"
    if not path.exists():
        return None
    try:
        _key_of(read_text(path, limit=_LIMIT).strip())
    except BadFile as error:
        return str(error.fields["reason"])
    except ValueError as error:
        return str(error)
    return None


def _key_of(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        raise ValueError("it is not hexadecimal") from None
    if len(key) != _KEY_BYTES:
        raise ValueError("it is empty" if not key else f"it holds {len(key)} bytes, not {_KEY_BYTES}")
    return key


def _write_new(path: Path, data: bytes) -> bool:
    """Write a secret file that is not there yet, whole or not at all; False when it is there."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return True
