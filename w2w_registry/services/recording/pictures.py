"""The one way by which pictures leave: marked in their pixels, signed, and on record before anybody has them.

    ready = pictures.prepare(registry, [Outgoing(pixels, about, "alice_1.png", "generate", (version,), seed=1)])
    with registry.catalog.write(registry.actor) as uow:
        uow.event("version.generate", …, **pictures.record(uow, ready))
    write ready[0].data

``marking = false`` in the policy leaves the pictures as they are; each event that lets some go then says so.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.pictures import Picture, PictureVersion, marks_taken
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent.rules import Rules
from w2w_registry.diffusion.images import png_bytes
from w2w_registry.errors import SettingError, storing
from w2w_registry.marking import c2pa, tiles, watermark
from w2w_registry.marking.certificates import SELF_MADE, Credentials, issuer, make_credentials
from w2w_registry.pictures import COMPOSITE_TYPE, SOURCE_TYPE
from w2w_registry.provenance import manifest as manifests
from w2w_registry.records import now
from w2w_registry.services.recording import policies
from w2w_registry.services.recording.manifests import manifest_of
from w2w_registry.services.registry import Registry
from w2w_registry.settings import Settings
from w2w_registry.version import __version__

CREDENTIALS: Final = "content.pem"
"""Key and certificates, in the registry's folder of keys."""
CHOICES = 16
"""How many random numbers a picture may choose its own from: those that suit it make a stronger mark."""


@dataclass(frozen=True, eq=False)
class Outgoing:
    """A picture that is to leave: (H, W, 3) uint8, what is said in it, its file's name (which
    the credentials do not repeat: it names an identity), what made it and whom it shows
    (ids of versions). ``composite``: a sheet of pictures that came from elsewhere."""

    pixels: NDArray[np.uint8]
    about: Mapping[str, Any]
    title: str
    operation: str
    versions: tuple[int, ...]
    seed: int | None = None
    composite: bool = False


@dataclass(frozen=True, eq=False)
class Ready:
    """The finished PNG. ``false_alarm``: the detector's own bound on the mark just put in; None when not marked."""

    outgoing: Outgoing
    data: bytes
    mark: int | None
    false_alarm: float | None

    @property
    def digest(self) -> str:
        return sha256(self.data).hexdigest()


def prepare(registry: Registry, leaving: Sequence[Outgoing]) -> list[Ready]:
    """Mark and sign pictures, unless the policy says not to.

    Raises:
        MissingExtra: c2pa-python is not installed. SettingError: unusable keys. StorageError: no place to keep them.
    """
    with registry.catalog.read() as session:
        wanted = Rules.from_settings(policies.in_force(registry, session)).marking
        models = {} if not wanted else _models(session, {p.versions for p in leaving})
        numbers = iter(_numbers(session, CHOICES * len(leaving)) if wanted else ())
    if not wanted:
        return [Ready(p, _png(p, p.pixels), None, None) for p in leaving]
    secret, credentials = marking_secret(registry), content_credentials(registry)
    out = []
    for picture in leaving:
        marked = watermark.embed(picture.pixels, secret, [next(numbers) for _ in range(CHOICES)])
        statement = c2pa.Statement(
            ("w2w-registry", __version__),
            models[picture.versions],
            watermarked=marked.found.present,
            mark=marked.found.mark,
            composite=picture.composite,
        )
        data = c2pa.sign(_png(picture, marked.pixels), "image/png", statement, credentials)
        out.append(Ready(picture, data, statement.mark, marked.found.false_alarm))
    return out


def record(uow: UnitOfWork, ready: Sequence[Ready]) -> dict[str, Any]:
    """Rows for the pictures, journaled by the event that comes next; returns what that event should say of them."""
    if any(r.false_alarm is not None for r in ready):
        rows = [
            {
                "mark": r.mark,
                "digest": r.digest,
                "operation": r.outgoing.operation,
                "seed": r.outgoing.seed,
                "event_seq": uow.next_seq,
                "made": uow.now(),
            }
            for r in ready
        ]
        ids = [key[0] for key in uow.bulk_insert(Picture, rows)]
        links = [
            {"picture_id": number, "version_id": version}
            for number, r in zip(ids, ready, strict=True)
            for version in dict.fromkeys(r.outgoing.versions)
        ]
        uow.bulk_insert(PictureVersion, links)
    return {
        "marking": {
            "on": any(r.false_alarm is not None for r in ready),
            "pictures": len(ready),
            "seen": sum(r.false_alarm is not None and r.false_alarm <= watermark.ALARM for r in ready),
            "numbered": sum(r.mark is not None for r in ready),
        }
    }


def _png(leaving: Outgoing, pixels: NDArray[np.uint8]) -> bytes:
    return png_bytes(pixels, leaving.about, COMPOSITE_TYPE if leaving.composite else SOURCE_TYPE)


def marking_secret(registry: Registry) -> bytes:
    """The secret of this registry's numbers, made at its first use. Whoever has it can read and forge them; a registry
    that several machines share needs it on each (``keys/marking.key``)."""
    text = _kept(registry, "marking.key", lambda: secrets.token_hex(32) + "\n").strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise SettingError(setting="keys/marking.key", value="", reason="not 64 hex digits")
    return key


def content_credentials(registry: Registry) -> Credentials:
    """Key and certificates for content credentials: ``keys/content.pem`` (key, then the chain, leaf first, root last).

    Made by the registry itself at first; an owner with a certificate of a public authority puts it there.
    """
    owner = str(registry.settings.organisation.get("name") or SELF_MADE)

    def make() -> str:
        made = make_credentials(owner, now())
        return made.key + made.chain

    text = _kept(registry, CREDENTIALS, make)
    parts = text.split("-----BEGIN CERTIFICATE-----")
    if len(parts) < 2 or "PRIVATE KEY" not in parts[0]:
        raise SettingError(setting="keys/content.pem", value="", reason="not a private key and its certificates")
    chain = ["-----BEGIN CERTIFICATE-----" + part for part in parts[1:]]
    return Credentials("".join(chain), parts[0], chain[-1])


def certified_name(settings: Settings) -> str | None:
    """The organisation in whose name this registry's pictures are signed; None: there are no certificates yet.

    Raises:
        SettingError: what is there holds no certificate.
    """
    path = settings.home / "keys" / CREDENTIALS
    if not path.exists():
        return None
    try:
        return issuer(path.read_text("ascii"))
    except (OSError, ValueError, IndexError) as error:
        raise SettingError(setting=f"keys/{CREDENTIALS}", value="", reason=str(error)) from None


def keys_to_read_by(registry: Registry) -> tuple[bytes | None, str | None]:
    """The secret of the numbers and the root of the credentials, where there are any: who only asks makes none."""
    folder = registry.settings.home / "keys"
    secret = marking_secret(registry) if (folder / "marking.key").exists() else None
    return secret, content_credentials(registry).root if (folder / CREDENTIALS).exists() else None


def _kept(registry: Registry, name: str, make: Any) -> str:
    folder = registry.settings.home / "keys"
    path = folder / name
    try:
        return path.read_text("ascii")
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(setting=str(path), value="", reason=str(error)) from None
    temporary = Path(f"{path}.{os.getpid()}.{secrets.token_hex(4)}")
    with storing(path):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(make())
        try:
            os.link(temporary, path)  # unlike a rename, this leaves what another process was first to make
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        return path.read_text("ascii")


def _models(session: Session, shown: set[tuple[int, ...]]) -> dict[tuple[int, ...], str | None]:
    """The digest of the manifest of the one version shown; None for a sheet of several."""
    found: dict[tuple[int, ...], str | None] = {}
    for versions in shown:
        if len(versions) == 1:
            row = versions_by_id(session, versions)[versions[0]]
            found[versions] = manifests.digest(manifest_of(session, row))
        else:
            found[versions] = None
    return found


def _numbers(session: Session, count: int) -> list[int]:
    """Random numbers that no picture carries yet."""
    fresh: list[int] = []
    while len(fresh) < count:
        drawn = [secrets.randbits(tiles.ID_BITS) for _ in range(count - len(fresh))]
        taken = marks_taken(session, drawn[:500]) if len(drawn) <= 500 else set[int]()
        for start in range(500, len(drawn), 500):
            taken |= marks_taken(session, drawn[start : start + 500])
        fresh += [n for n in dict.fromkeys(drawn) if n not in taken and n not in fresh]
    return fresh
