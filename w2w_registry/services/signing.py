"""Signing and verifying exported folders, with ``model-signing`` (OpenSSF model signing, sigstore bundles)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2w_registry.errors import (
    BadFile,
    IntegrityError,
    MissingExtra,
    RegistryError,
    SigningError,
    UsageError,
    storage_error,
)
from w2w_registry.files import check_file

SIGNATURE = "model.sig"  # in the folder; model-signing, too, names what it leaves out from there


_SIGSTORE = frozenset({"sigstore", "sigstore_models", "model_signing", "tuf", "id", "requests", "urllib3"})
"""Packages whose errors while signing are the outside world's, not bugs."""


_KEY_LIMIT = 1 << 16


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
        raise BadFile(path=str(private), reason="a key exists there; name another file") from None
    except OSError as error:
        raise storage_error(folder, error) from error
    return {"private_key": str(private), "public_key": str(public)}


@dataclass(frozen=True)
class Sigstore:
    """Who signs through sigstore: an OIDC ``identity_token``; the ``ambient`` credentials of a CI job; or a person,
    asked in a browser, where there is one (``interactive``)."""

    identity_token: str | None = None
    ambient: bool = False
    interactive: bool = False


def sign_folder(folder: Path, signer: Path | Sigstore) -> dict[str, str]:
    """Sign every file of an exported folder with a private key (PEM file), or through sigstore.

    Raises:
        BadFile: no folder, or no usable key. MissingExtra: model-signing is not installed.
        SigningError: sigstore cannot be reached, or does not learn who signs.
    """
    check_folder(folder)
    signature = folder / SIGNATURE
    with _signing_errors(signer if isinstance(signer, Path) else folder):
        from model_signing import hashing, signing

        config = signing.Config().set_hashing_config(
            hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=True)
        )
        if isinstance(signer, Path):
            check_file(signer, limit=_KEY_LIMIT)
            try:
                config.use_elliptic_key_signer(private_key=signer)
            except (ValueError, TypeError) as error:
                raise BadFile(path=str(signer), reason=f"not a usable private key ({_first_line(error)})") from None
        else:
            _check_credentials(signer)
            config.use_sigstore_signer(identity_token=signer.identity_token, use_ambient_credentials=signer.ambient)
        config.sign(folder, signature)
    return {"folder": str(folder), "signature": str(signature)}


def _check_credentials(signer: Sigstore) -> None:
    """Without a token sigstore would open a browser and wait for ever where nobody sits before one."""
    if signer.identity_token is not None or (not signer.ambient and signer.interactive):
        return
    if not signer.ambient:
        raise SigningError(
            reason="not at a terminal, so nobody can be asked who signs",
            hint="give [[key]], [[ambient]] in a CI job that may ask for an identity, or SIGSTORE_ID_TOKEN",
        )
    from sigstore.oidc import detect_credential

    if detect_credential() is None:
        raise SigningError(
            reason="this environment offers no credentials",
            hint="in GitHub Actions the job needs the permission `id-token: write`",
        )


def verify_folder(
    folder: Path, *, public_key: Path | None = None, identity: str | None = None, issuer: str | None = None
) -> dict[str, Any]:
    """Check a signed folder: with a public key, or against a sigstore identity and its issuer.

    Raises:
        BadFile: no folder, no signature, no usable key. IntegrityError: a file was changed, added or removed, or it
        was signed by another key. MissingExtra: model-signing is not installed.
    """
    check_folder(folder)
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise BadFile(path=str(folder), reason=f"it is not signed (no {SIGNATURE})")
    if public_key is None and (identity is None or issuer is None):
        if identity is not None or issuer is not None:
            raise UsageError(reason="a sigstore signature is checked against both [[identity]] and [[issuer]]")
        hint = "give [[key]] PUBLIC_KEY, or [[identity]] and [[issuer]] of who signed through sigstore"
        raise BadFile(path=str(folder), reason="no key to check its signature with", hint=hint)
    with _signing_errors(public_key or folder):
        from cryptography.exceptions import InvalidSignature
        from model_signing import hashing, verifying

        config = verifying.Config().set_hashing_config(
            hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=True)
        )
        if public_key is not None:
            check_file(public_key, limit=_KEY_LIMIT)
            try:
                config.use_elliptic_key_verifier(public_key=public_key)
            except (ValueError, TypeError) as error:
                raise BadFile(path=str(public_key), reason=f"not a usable public key ({_first_line(error)})") from None
        else:
            config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer)
        try:
            config.verify(folder, signature)
        except (KeyError, TypeError):
            reason = f"{SIGNATURE} is not a signature"
            raise IntegrityError(what="folder", name=str(folder), expected="as signed", found=reason) from None
        except InvalidSignature:
            reason = f"a {SIGNATURE} that was changed, or was made with another key"
            raise IntegrityError(what="folder", name=str(folder), expected="as signed", found=reason) from None
        except ValueError as error:
            raise IntegrityError(
                what="folder", name=str(folder), expected="as signed", found=_mismatch(_first_line(error))
            ) from None
    return {"folder": str(folder), "ok": True, "signed": True}


def is_folder(text: str) -> bool:
    """Whether what people typed means a folder on disk rather than a registered name."""
    return text.startswith((".", "/", "~")) or Path(text).is_dir()


def check_folder(folder: Path) -> None:
    """Raises BadFile when there is no such folder, or something in it is neither a file nor a folder: a signature
    would not cover what a link leads to, and reading a pipe would not end."""
    if not folder.is_dir():
        raise BadFile(path=str(folder), reason="not a folder")
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BadFile(path=str(path), reason="neither a file nor a folder, so it cannot be signed or verified")


@contextmanager
def _signing_errors(key: Path) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(package=error.name or "model-signing", extra="signing", feature="signing folders") from None
    except FileNotFoundError as error:
        raise BadFile(path=str(error.filename or key), reason="no such file") from None
    except RegistryError:
        raise
    except Exception as error:
        # Sigstore and what it is made of raise dozens of kinds, many of them private, and have no common root.
        if type(error).__module__.partition(".")[0] not in _SIGSTORE:
            raise
        if type(error).__name__ == "VerificationError":
            raise IntegrityError(what="folder", name=str(key), expected="as signed", found=_first_line(error)) from None
        hint = "sigstore needs the internet; sign and verify with [[key]] without it" if _unreachable(error) else ""
        raise SigningError(reason=_first_line(error), hint=hint) from None


_DIFFERENCES = (
    (r"Hash mismatch for \\*'(.+?)\\*': Expected", "changed"),
    (r"Extra files found in model \\*'.*?\\*': (.+?)[\"']", "added"),
    (r"Missing files in model \\*'.*?\\*': (.+?)[\"']", "removed"),
)
"""How model-signing words what differs from the signature, amid digests as raw bytes; and how it is worded here."""


def _mismatch(text: str) -> str:
    """``a.json, b.json changed; c.txt added``; the text itself when it says something else."""
    found = [(", ".join(re.findall(pattern, text)), what) for pattern, what in _DIFFERENCES]
    return "; ".join(f"{files} {what}" for files, what in found if files) or text


def _unreachable(error: BaseException) -> bool:
    """Whether the network failed somewhere below."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) or type(chain).__name__ in ("TUFError", "NetworkError"):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
