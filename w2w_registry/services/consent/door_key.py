"""The door's key: what references are made and read with. It lies beside the catalog, never in it.

``[policy] door_key`` names its file (a team shares one); by default it is ``keys/door.key`` in the home folder, made
when the first reference is kept.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from w2w_registry.errors import BadFile, SettingError, storing
from w2w_registry.files import read_bytes
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry

_LIMIT = 1 << 10

_BYTES = 32


def key_path(registry: Registry) -> Path:
    """Where the key is, or will be."""
    with registry.catalog.read() as session:
        named = policies.in_force(registry, session, looking=True).get("door_key")
    return registry.settings.home / "keys" / "door.key" if named is None else Path(str(named)).expanduser()


def read_key(registry: Registry) -> bytes | None:
    """The key, None when there is none yet.

    Raises:
        SettingError: the file cannot be read or is no key.
    """
    path = key_path(registry)
    if not path.exists():
        return None
    try:
        key = read_bytes(path, limit=_LIMIT)
    except BadFile as error:
        raise SettingError(setting="door_key", value=str(path), reason=error.fields["reason"]) from None
    if len(key) != _BYTES:
        raise SettingError(setting="door_key", value=str(path), reason=f"a key has {_BYTES} bytes, not {len(key)}")
    return key


def ensure_key(registry: Registry) -> bytes:
    """The key, made when there is none yet.

    Raises:
        SettingError, StorageError.
    """
    key = read_key(registry)
    if key is not None:
        return key
    path = key_path(registry)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(fresh, path)  # whoever comes second takes the first one's
        except FileExistsError:
            pass
        finally:
            fresh.unlink(missing_ok=True)
    made = read_key(registry)
    assert made is not None
    return made
