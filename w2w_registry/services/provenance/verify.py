"""Verifying what is stored, and signing and verifying exported folders.

Folders are signed with ``model-signing`` (OpenSSF model signing, sigstore bundles): with a key pair offline, or
through sigstore by those who have it. The signature lies in the folder as ``model.sig``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from w2w_registry.catalog.models import Coordinates, Identity, Space, Version
from w2w_registry.catalog.resolve import PRESENT, version_for
from w2w_registry.catalog.vectors import pack, unpack
from w2w_registry.errors import BadFile, IntegrityError, MissingExtra, NotFound, StorageError
from w2w_registry.provenance import manifest as manifests
from w2w_registry.services.provenance.lineage import manifest_of
from w2w_registry.services.registry import Progress, Registry, no_progress

SIGNATURE = "model.sig"


# -- what is stored ----------------------------------------------------------------------------------
def verify_version(registry: Registry, reference: str) -> dict[str, Any]:
    """Check a version's files, coordinates, space and manifest against what was recorded.

    Returns:
        ``ok`` and the ``problems``, one line each.

    Raises:
        NotFound: no such identity or version.
    """
    with registry.catalog.read() as session:
        version = version_for(session, reference, any_state=True)
        name = f"{version.identity.name}@{version.number}"
        problems = list(_problems(registry, session, version))
        digest = manifests.digest(manifest_of(session, version))
    return {"version": name, "state": version.state.value, "ok": not problems, "problems": problems, "manifest": digest}


def mismatched(registry: Registry, progress: Progress = no_progress) -> list[dict[str, Any]]:
    """Every version in the registry whose files or coordinates no longer match, with its problems."""
    out: list[dict[str, Any]] = []
    with registry.catalog.read() as session:
        rows = session.execute(
            select(Version, Identity.name)
            .join(Identity, Identity.id == Version.identity_id)
            .where(Version.state.in_(PRESENT))
            .order_by(Version.id)
        ).all()
        for done, (version, name) in enumerate(rows, 1):
            problems = list(_problems(registry, session, version))
            if problems:
                out.append({"version": f"{name}@{version.number}", "problems": problems})
            progress(done, len(rows))
    return out


def _problems(registry: Registry, session: Session, version: Version) -> Iterator[str]:
    files = (
        ("LoRA", version.artifact_digest),
        ("preview", version.preview_digest),
        ("manifest", version.manifest_digest),
    )
    for what, digest in files:
        if digest is None:
            continue
        try:
            registry.artifacts.get(digest)
        except NotFound:
            yield f"its {what} {digest[:12]} is gone"
        except IntegrityError as error:
            yield f"its {what} {digest[:12]} was changed: its content is now {error.found[:12]}"
        except StorageError as error:
            yield f"its {what} {digest[:12]} cannot be read: {error.reason}"
    rows = session.scalars(select(Coordinates).where(Coordinates.version_id == version.id)).all()
    if not rows and version.state in PRESENT:
        yield "it has no coordinates"
    for row in rows:
        found = pack(unpack(row.data))[1]
        if found != row.digest:
            yield f"its coordinates are not what was recorded: {row.digest[:12]}, now {found[:12]}"
    space = session.get_one(Space, version.space_id)
    if not registry.artifacts.exists(space.artifact_digest):
        yield f"the arrays of its space {space.ref} are gone"


# -- exported folders --------------------------------------------------------------------------------
def new_key_pair(folder: Path) -> dict[str, str]:
    """Make a P-256 key pair for signing: ``signing.key`` (owner only) and ``signing.pub``.

    Raises:
        StorageError: they cannot be written; BadFile: a key is there already.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = folder / "signing.key", folder / "signing.pub"
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    open_part = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(secret)
        public.write_bytes(open_part)
    except FileExistsError:
        raise BadFile(path=str(private), reason="a key is there already") from None
    except OSError as error:
        raise StorageError(path=str(folder), reason=error.strerror or str(error)) from error
    return {"private_key": str(private), "public_key": str(public)}


def sign_folder(folder: Path, private_key: Path | None) -> dict[str, str]:
    """Sign every file of an exported folder; with None through sigstore, which asks who you are.

    Raises:
        BadFile: no folder, or no usable key. MissingExtra: model-signing is not installed.
    """
    _check_folder(folder)
    signature = folder / SIGNATURE
    with _signing_errors(private_key or folder):
        from model_signing import hashing, signing

        config = signing.Config().set_hashing_config(
            hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
        )
        if private_key is None:
            config.use_sigstore_signer()
        else:
            config.use_elliptic_key_signer(private_key=private_key)
        config.sign(folder, signature)
    return {"folder": str(folder), "signature": str(signature)}


def verify_folder(
    folder: Path, *, public_key: Path | None = None, identity: str | None = None, issuer: str | None = None
) -> dict[str, Any]:
    """Check a signed folder: with a public key, or against a sigstore identity and its issuer.

    Raises:
        BadFile: no folder, no signature, no usable key. IntegrityError: a file was changed, added or removed, or it
        was signed by another key. MissingExtra: model-signing is not installed.
    """
    _check_folder(folder)
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise BadFile(path=str(folder), reason=f"it is not signed (no {SIGNATURE})")
    if public_key is None and (identity is None or issuer is None):
        raise BadFile(path=str(folder), reason="no key to check its signature with", hint="give --key PUBLIC_KEY")
    with _signing_errors(public_key or folder):
        from model_signing import hashing, verifying

        config = verifying.Config().set_hashing_config(
            hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
        )
        if public_key is not None:
            config.use_elliptic_key_verifier(public_key=public_key)
        else:
            config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer)
        try:
            config.verify(folder, signature)
        except (KeyError, TypeError):
            reason = f"{SIGNATURE} is no signature"
            raise IntegrityError(what="folder", name=str(folder), expected="as signed", found=reason) from None
        except ValueError as error:
            reason = (str(error).strip().splitlines() or ["the signature does not hold"])[0]
            raise IntegrityError(what="folder", name=str(folder), expected="as signed", found=reason) from None
    return {"folder": str(folder), "ok": True, "signed": True}


def is_folder(text: str) -> bool:
    """Whether what people typed means a folder on disk rather than a registered name."""
    return text.startswith((".", "/", "~")) or Path(text).is_dir()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise BadFile(path=str(folder), reason="not a folder")


@contextmanager
def _signing_errors(key: Path) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(package=error.name or "model-signing", extra="signing", feature="signing folders") from None
    except FileNotFoundError as error:
        raise BadFile(path=str(error.filename or key), reason="no such file") from None
