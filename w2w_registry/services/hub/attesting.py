"""Attestations of a release: made from its facts when it is pushed, held against it when it is pulled."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from w2w_registry.errors import BadFile
from w2w_registry.hub import attestations, dsse
from w2w_registry.hub.bundle import BOM, STATEMENT, Document
from w2w_registry.services.hub.release_files import Options, VersionFacts
from w2w_registry.services.hub.signatures import signing_key, trusted_keys
from w2w_registry.services.registry import Registry


def attest(
    registry: Registry, facts: VersionFacts, options: Options, files: Mapping[str, bytes], policy: str | None
) -> dict[str, bytes]:
    """The bill of materials and the statement for a release of ``files``, signed when the registry has a key.

    Args:
        policy: digest of the policy under which it is published.

    Raises:
        SettingError: the signing key is not there. BadFile: it is no usable key.
    """
    said = attestations.Attested(
        name=facts.name,
        number=facts.number,
        kind=facts.kind,
        adapter=facts.adapter,
        model_digest=facts.model_digest,
        base_model=facts.base_model,
        base_revision=facts.base_revision,
        license=options.license,
        manifest=facts.manifest,
        files={},
        policy=policy,
    )
    bom, statement = attestations.of_release(said, files)
    return {BOM: bom, STATEMENT: dsse.encode(statement, signing_key(registry))}


def check(registry: Registry, folder: Path, document: Document, found: Mapping[str, str], where: str) -> None:
    """Hold the attestations in ``folder``, if there are any, against the release and the trusted keys.

    Args:
        found: path → SHA-256 of the files as fetched.

    Raises:
        BadFile, IntegrityError: one is broken, contradicts the release, or a trusted key's signature does not hold.
    """
    bom, envelope = (_content(folder / name) for name in (BOM, STATEMENT))
    attestations.check(document, found, bom, envelope, where)
    if envelope is not None:
        _check_signatures(registry, envelope, where)


def check_without_document(registry: Registry, folder: Path, found: Mapping[str, str], where: str) -> None:
    """Hold what was fetched from a repo without ``w2w.json`` against its statement, when that is one of a registry.

    Raises:
        IntegrityError: a file is not as attested, or a trusted key's signature does not hold.
    """
    envelope = _content(folder / STATEMENT)
    if envelope is not None and attestations.check_subjects(envelope, found, where):
        _check_signatures(registry, envelope, where)


def _check_signatures(registry: Registry, envelope: bytes, where: str) -> None:
    for key in trusted_keys(registry):
        with suppress(BadFile):  # a key of another form signed nothing here
            dsse.check(envelope, key, f"{where}/{STATEMENT}")


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
