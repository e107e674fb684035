"""Signatures of releases: made with the registry's key when it has one, checked against the keys it trusts.

registry.toml::

    [hub]
    signing_key = "/keys/signing.key"      # w2w-reg sign --new-key makes a pair
    keys = ["/keys/acme.pub"]              # whose releases are known to be theirs
    require_signature = false              # true: pull nothing that none of the keys signed

``keys`` and ``require_signature`` are part of the policy: `w2w-reg policy set` puts them in force.

What is signed is every file of a release but the card, which people edit on the Hub. Its attestation is always signed:
without ``signing_key`` by a key of the registry's own. A trusted key's signature under either is enough.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from w2w_registry.artifacts import temporary_folder
from w2w_registry.commands import command
from w2w_registry.errors import BadFile, IntegrityError, SettingError, storage_error
from w2w_registry.hub import bundle
from w2w_registry.services.recording.policies import hub_trust
from w2w_registry.services.registry import Registry
from w2w_registry.services.signing import SIGNATURE, new_key_pair, sign_folder, verify_folder

OWN_KEY: Final = Path("keys", "release", "signing.key")
"""The key that attestations are signed with where none is set, in the registry's home."""


def signing_key(registry: Registry) -> Path | None:
    """The private key releases are signed with; None when none is set.

    Raises:
        SettingError: it is not there.
    """
    named = registry.settings.hub.get("signing_key")
    if named is None:
        return None
    path = Path(str(named)).expanduser()
    if not path.is_file():
        raise SettingError(setting="[hub] signing_key", value=str(named), reason="no such file")
    return path


def attesting_key(registry: Registry) -> Path:
    """The private key that attestations are signed with: ``signing_key``, else the registry's own, made when it is
    first needed. Its public half is beside it (``signing.pub``).

    Raises:
        SettingError: ``signing_key`` names no file. StorageError: the own key cannot be written.
    """
    named = signing_key(registry)
    if named is not None:
        return named
    own = registry.settings.home / OWN_KEY
    if not own.is_file():
        fresh = own.parent.with_name(f".{own.parent.name}.{uuid.uuid4().hex[:8]}")
        try:
            fresh.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new_key_pair(fresh)
            os.rename(fresh, own.parent)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if not own.is_file():  # else another process was first
                raise storage_error(own, error) from error
    return own


def sign(key: Path, files: Mapping[str, bytes], scratch: Path) -> bytes:
    """The signature over a release's files."""
    with temporary_folder(scratch) as folder:
        for path, data in files.items():
            if path != bundle.CARD:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        sign_folder(folder, key)
        return (folder / SIGNATURE).read_bytes()


def check(registry: Registry, folder: Path, where: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a key this registry trusts signed the files in ``folder``, and what to tell about it.

    Raises:
        IntegrityError: it is signed, but by none of the keys or over other content.
        SettingError: a key that is named is not there.
    """
    keys = trusted_keys(registry)
    if not (folder / SIGNATURE).is_file():
        return False, ()
    if not keys:
        return False, (
            "it is signed, but the policy names no key to check it with: write [hub] keys in registry.toml and run"
            f" `{command('policy set')}`",
        )
    for key in keys:
        try:
            verify_folder(folder, public_key=key)
        except (IntegrityError, BadFile):
            continue
        return True, ()
    raise IntegrityError(what="signature of", name=where, expected="made by a trusted key", found="by none of them")


def demanded(registry: Registry) -> bool:
    """Whether the policy in force takes only what a trusted key signed."""
    return bool(hub_trust(registry).get("require_signature"))


def trusted_keys(registry: Registry) -> list[Path]:
    """The public keys whose releases the policy in force believes.

    Raises:
        SettingError: not a list, or one is not there.
    """
    keys = hub_trust(registry).get("keys", [])
    if not isinstance(keys, list):
        raise SettingError(setting="[hub] keys", value=keys, reason="expected a list of files")
    paths = [Path(str(key)).expanduser() for key in keys]
    for key, path in zip(keys, paths, strict=True):
        if not path.is_file():
            raise SettingError(setting="[hub] keys", value=str(key), reason="no such file")
    return paths
