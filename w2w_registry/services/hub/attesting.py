"""Attestations of a release: made from its facts when it is pushed, held against it when it is pulled."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from w2w_registry.errors import BadFile, IntegrityError
from w2w_registry.hub import attestations, dsse
from w2w_registry.hub.bundle import BOM, STATEMENT, Released
from w2w_registry.services.hub import signatures
from w2w_registry.services.hub.release_files import Options, VersionFacts
from w2w_registry.services.hub.signatures import OWN_KEY, attesting_key, trusted_keys
from w2w_registry.services.registry import Registry


def attest(
    registry: Registry, facts: VersionFacts, options: Options, files: Mapping[str, bytes], policy: str | None
) -> dict[str, bytes]:
    """The bill of materials and the statement for a release of ``files``, the latter signed.

    Args:
        policy: digest of the policy under which it is published.

    Raises:
        SettingError: the signing key is not there. BadFile: it is not a usable key.
    """
    said = attestations.Attested(
        **facts.beginning(), files={}, adapter=facts.adapter, license=options.license, policy=policy
    )
    bom, statement = attestations.of_release(said, files)
    return {BOM: bom, STATEMENT: dsse.encode(statement, attesting_key(registry))}


def attested_by(files: Mapping[str, bytes]) -> str | None:
    """Id of the key that signed the statement among a release's files; None when nobody did."""
    envelope = files.get(STATEMENT)
    signed = () if envelope is None else dsse.decode(envelope, STATEMENT)[1]
    return signed[0][0] if signed else None


def vouched(
    registry: Registry, folder: Path, document: Released, found: Mapping[str, str], where: str
) -> tuple[bool, tuple[str, ...]]:
    """Hold the signature and the attestations in ``folder``, those there are, against the release and the trusted keys.

    Args:
        found: path → SHA-256 of the files as fetched.

    Returns:
        Whether a trusted key signed the release, and what to tell of it. Its statement, which names every file but the
        card by its digest, vouches for it as its signature does.

    Raises:
        BadFile, IntegrityError: one is broken, contradicts the release, or a trusted key's signature does not hold; or
        no trusted key signed it and the policy demands that one did. SettingError: a key that is named is not there.
    """
    signed, remarks = signatures.check(registry, folder, where)
    bom, envelope = (_content(folder / name) for name in (BOM, STATEMENT))
    attestations.check(document, found, bom, envelope, where)
    trusted, told = (False, ()) if envelope is None else _check_signatures(registry, envelope, where)
    if signatures.demanded(registry) and not (signed or trusted):
        raise IntegrityError(what="release", name=where, expected="a signature", found="none of a trusted key")
    return signed or trusted, (*remarks, *told)


def check_without_document(
    registry: Registry, folder: Path, found: Mapping[str, str], there: Collection[str], where: str
) -> None:
    """Hold what was fetched without a ``w2w.json`` against the repo's statement, when that is one of a registry.

    Args:
        found: path → SHA-256 of the files as fetched. there: every path of the repo.

    Raises:
        IntegrityError: a file is not as attested, a trusted key's signature does not hold, or the policy demands a
        signature, which only a statement signed by a trusted key gives to a file without its release.
    """
    envelope = _content(folder / STATEMENT)
    spoken_of = None if envelope is None else attestations.check_subjects(envelope, found, there, where)
    trusted = envelope is not None and spoken_of is not None and _check_signatures(registry, envelope, where)[0]
    tensors = {path for path in found if path.endswith(".safetensors")}
    if signatures.demanded(registry) and not (trusted and tensors <= (spoken_of or frozenset())):
        raise IntegrityError(what="release", name=where, expected="a signature", found="none")


def _check_signatures(registry: Registry, envelope: bytes, where: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a key that the policy trusts signed it, and what to tell: nothing when one did, or this registry's own,
    which makes no consent of anybody's believed."""
    own = registry.settings.home / OWN_KEY.with_suffix(".pub")
    trusted = _signed_by(trusted_keys(registry), envelope, where)
    if trusted or (own.is_file() and _signed_by([own], envelope, where)):
        return trusted, ()
    signed = [name for name, _ in dsse.decode(envelope, f"{where}/{STATEMENT}")[1]]
    if not signed:
        return False, (
            "its attestation is not signed: it says what the files are, and proves nothing about who says so",
        )
    remark = f"its attestation is signed by key {signed[0][:16]}, which is none that your policy trusts ([hub] keys)"
    return False, (remark,)


def _signed_by(keys: Iterable[Path], envelope: bytes, where: str) -> bool:
    held = False
    for key in keys:  # all of them: a signature in the name of any must hold
        with suppress(BadFile):  # a key of another form signed nothing here
            held = dsse.check(envelope, key, f"{where}/{STATEMENT}") or held
    return held


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
