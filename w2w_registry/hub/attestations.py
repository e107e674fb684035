"""What a release attests, in forms that other tools read: a bill of materials, and a statement of how it was made.

``mlbom.cdx.json`` is a CycloneDX 1.6 ML-BOM, ``provenance.intoto.jsonl`` an in-toto Statement v1 with SLSA's
provenance predicate in a DSSE envelope. Both are functions of the facts alone: no clock, no random number, and nobody's
name but the release's. So a pull makes them anew from the release it fetched, and whatever differs is a contradiction.

Numbers are written as strings: some readers of in-toto turn integers into floats.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from w2w_registry.errors import BadFile, IntegrityError
from w2w_registry.hub import bundle, dsse, spdx
from w2w_registry.hub.bundle import BOM, CARD, CONSENT, SIGNATURE, STATEMENT, read_table
from w2w_registry.hub.safety import shorten
from w2w_registry.records import canonical_json, digest_of

_VERSION = "1"
_BUILD_TYPE = f"urn:w2w-registry:operation:v{_VERSION}"
_BUILDER = "urn:w2w-registry"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What a manifest calls the version it came from (a parent is named by its own manifest's digest).
_PARENT = "manifest"


@dataclass(frozen=True)
class Attested(bundle.Released):
    """The facts behind both files.

    ``files`` are without the signature and these two. ``policy``: digest of the policy under which it is published.
    ``named``: whether the licence is given by its name alone, as earlier releases gave it.
    """

    adapter: str
    license: str
    policy: str | None
    named: bool = False


def subjects_among(files: Mapping[str, str]) -> dict[str, str]:
    """Those of a release's files (path → SHA-256) that the bill of materials lists."""
    return {path: digest for path, digest in sorted(files.items()) if path not in (CARD, SIGNATURE, BOM, STATEMENT)}


# -- the bill of materials ---------------------------------------------------------------------
def bill_of_materials(facts: Attested) -> bytes:
    """A CycloneDX 1.6 ML-BOM: the model and its files, its base model, what it was made from, licence and consent."""
    base = _base_component(facts)
    data = [_data_component(i, kind, digest) for i, (kind, _, digest) in enumerate(_inputs(facts, parents=False))]
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": facts.name,
        "version": str(facts.number),
        "licenses": [_license(facts)],
        "modelCard": {
            "modelParameters": {
                "task": "text-to-image",
                "architectureFamily": facts.adapter,
                **({} if facts.base_model is None else {"modelArchitecture": facts.base_model}),
                "datasets": [{"ref": item["bom-ref"]} for item in data],
            }
        },
        "components": [
            {"type": "file", "bom-ref": f"file:{path}", "name": path, "hashes": _hashes(digest)}
            for path, digest in facts.files.items()
        ],
        "properties": _properties(
            format=_VERSION,
            kind=facts.kind,
            model_digest=facts.model_digest,
            manifest_digest=digest_of(facts.manifest),
            operation=_operation_kind(facts),
        ),
    }
    ancestors = [*([] if base is None else [{**base, "bom-ref": "ancestor:base"}]), *_parents(facts)]
    if ancestors:
        model["pedigree"] = {"ancestors": ancestors}
    if CONSENT in facts.files:
        model["externalReferences"] = [
            {
                "type": "attestation",
                "url": CONSENT,
                "comment": "consent of whoever is depicted: state and receipts, by id and digest",
                "hashes": _hashes(facts.files[CONSENT]),
            }
        ]
    parts = [*([] if base is None else [base]), *data]
    body: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "w2w-registry"}]},
            "component": model,
        },
        "components": parts,
        "dependencies": [
            {"ref": "model", "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{_BUILDER}:bom:{digest_of(body)}")
    return (canonical_json({**body, "serialNumber": f"urn:uuid:{serial}"}) + "\n").encode()


def _license(facts: Attested) -> dict[str, Any]:
    """By its SPDX identifier, or an expression of several; by name where it is neither."""
    if not facts.named:
        if (known := spdx.identifier(facts.license)) is not None:
            return {"license": {"id": known}}
        if (several := spdx.expression(facts.license)) is not None:
            return {"expression": several}
    return {"license": {"name": facts.license}}


def _base_component(facts: Attested) -> dict[str, Any] | None:
    if facts.base_model is None:
        return None
    out: dict[str, Any] = {"type": "machine-learning-model", "bom-ref": "base", "name": facts.base_model}
    if facts.base_revision is not None:
        out["version"] = facts.base_revision
    address = _purl(facts)
    return out if address is None else {**out, "purl": address}


def _data_component(index: int, kind: str, digest: str) -> dict[str, Any]:
    """A photo, a dataset, a space…: by digest only."""
    what = {"type": "dataset", "name": kind}
    return {"type": "data", "bom-ref": f"input:{index}", "name": kind, "hashes": _hashes(digest), "data": [what]}


def _parents(facts: Attested) -> list[dict[str, Any]]:
    found = [digest for kind, _, digest in _inputs(facts, parents=True) if kind == _PARENT]
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"ancestor:{i}",
            "name": "version of the registry",
            "properties": _properties(manifest_digest=digest),
        }
        for i, digest in enumerate(found)
    ]


def _properties(**values: str) -> list[dict[str, str]]:
    return [{"name": f"w2w-registry:{name}", "value": value} for name, value in values.items()]


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


# -- how it was made ---------------------------------------------------------------------------
def statement(facts: Attested, bom: bytes) -> bytes:
    """The in-toto statement: the files are the subject, the operation that made the model is the predicate."""
    subjects = {**facts.files, BOM: hashlib.sha256(bom).hexdigest()}
    body = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": path, "digest": {"sha256": digest}} for path, digest in sorted(subjects.items())],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {
                    "operation": _operation_kind(facts),
                    "parametersDigest": digest_of(_operation(facts).get("parameters")),
                },
                "internalParameters": {
                    "manifestDigest": digest_of(facts.manifest),
                    "modelDigest": facts.model_digest,
                    **({} if facts.policy is None else {"policyDigest": facts.policy}),
                },
                "resolvedDependencies": _dependencies(facts),
            },
            "runDetails": {"builder": {"id": _BUILDER, "version": _software(facts)}},
        },
    }
    return canonical_json(body).encode()


def _dependencies(facts: Attested) -> list[dict[str, Any]]:
    address = _purl(facts)
    base = [] if address is None else [{"name": "base_model", "uri": address}]
    return [
        *base,
        *(
            {"name": role or kind, "digest": {"sha256": digest}, "annotations": {"kind": kind}}
            for kind, role, digest in _inputs(facts, parents=True)
        ),
    ]


def _software(facts: Attested) -> dict[str, str]:
    version = _operation(facts).get("code_version")
    return {"w2w-registry": version} if isinstance(version, str) else {}


def _purl(facts: Attested) -> str | None:
    """Package URL of a base model on the Hub; None for one known by another name, such as a folder."""
    if facts.base_model is None or not _HUB_ID.fullmatch(facts.base_model):
        return None
    revision = facts.base_revision
    known = revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision)
    return f"pkg:huggingface/{facts.base_model}{f'@{revision}' if known else ''}"


def _operation(facts: Attested) -> Mapping[str, Any]:
    found = facts.manifest.get("operation")
    return found if isinstance(found, Mapping) else {}


def _operation_kind(facts: Attested) -> str:
    kind = _operation(facts).get("kind")
    return kind if isinstance(kind, str) and kind else "unknown"


def _inputs(facts: Attested, *, parents: bool) -> list[tuple[str, str, str]]:
    """Kind, role and digest of the inputs that have one; a parent version's kind is ``manifest``."""
    listed = _operation(facts).get("inputs")
    found: list[tuple[str, str, str]] = []
    for item in listed if isinstance(listed, Sequence) and not isinstance(listed, str) else ():
        if not isinstance(item, Mapping):
            continue
        kind, role = str(item.get("kind") or "input"), str(item.get("role") or "")
        parent, digest = item.get(_PARENT), item.get("digest")
        if parents and _is_digest(parent):
            found.append((_PARENT, role, str(parent)))
        if _is_digest(digest) and parent is None:
            found.append((kind, role, str(digest)))
    return list(dict.fromkeys(found))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


# -- checking a release that was fetched -------------------------------------------------------
def check(
    document: bundle.Released, files: Mapping[str, str], bom: bytes | None, envelope: bytes | None, where: str
) -> None:
    """Hold both files against the release they came with; what only they say (licence, adapter, policy) is theirs.

    Args:
        files: path → SHA-256 of the release's files as fetched.

    Raises:
        BadFile: one is not what its name says. IntegrityError: it contradicts the release.
    """
    adapter, license, named, policy = "", "", False, None
    if bom is not None:
        adapter, license, named = _own_words(bom, f"{where}/{BOM}")
    if envelope is not None:
        said, _ = dsse.decode(envelope, f"{where}/{STATEMENT}")
        policy = _policy_of(said, f"{where}/{STATEMENT}")
    facts = Attested(
        **document.beginning(),
        files=subjects_among(files),
        adapter=adapter,
        license=license,
        policy=policy,
        named=named,
    )
    if bom is not None:
        _same(f"{where}/{BOM}", json.loads(bill_of_materials(facts)), json.loads(bom))
    if envelope is None and bom is not None:  # they were always written together
        raise IntegrityError(what="file", name=f"{where}/{STATEMENT}", expected="a statement", found="nothing")
    if envelope is not None:
        if bom is None:
            raise IntegrityError(what="file", name=f"{where}/{BOM}", expected="as attested", found="nothing")
        _same(f"{where}/{STATEMENT}", json.loads(statement(facts, bom)), json.loads(said))


def check_subjects(
    envelope: bytes, files: Mapping[str, str], there: Collection[str], where: str
) -> frozenset[str] | None:
    """Hold files of a release that are fetched without its ``w2w.json`` against its statement.

    Args:
        files: path → SHA-256 of those that were fetched, not necessarily all. there: every path of the repo.

    Returns:
        Which of ``files`` the statement speaks of; None when it is not one of ours.

    Raises:
        IntegrityError: one of them is not as attested, or the attested ``w2w.json`` was taken out of the repo.
    """
    try:
        said = json.loads(dsse.decode(envelope, where)[0])
        if said["predicate"]["buildDefinition"]["buildType"] != _BUILD_TYPE:
            return None
        attested = {subject["name"]: subject["digest"]["sha256"] for subject in said["subject"]}
    except (BadFile, KeyError, TypeError, ValueError, RecursionError):
        return None
    if bundle.DOCUMENT in attested and bundle.DOCUMENT not in there:
        raise IntegrityError(what="file", name=f"{where}/{bundle.DOCUMENT}", expected="as attested", found="nothing")
    for path, digest in subjects_among(files).items():
        if attested.get(path, digest) != digest:  # a file that somebody added beside the release is not spoken of
            raise IntegrityError(what="file", name=f"{where}/{path}", expected=_show(attested[path]), found=digest)
    return frozenset(attested) & frozenset(files)


def _own_words(bom: bytes, where: str) -> tuple[str, str, bool]:
    """What only the bill says: adapter, licence, and whether that is by name."""
    body = read_table(bom, where)
    try:
        model = body["metadata"]["component"]
        adapter = model["modelCard"]["modelParameters"]["architectureFamily"]
        said = model["licenses"][0]
        (by, license), *_ = said.items() if "expression" in said else said["license"].items()
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise BadFile(path=where, reason="not a bill of materials of this registry") from None
    return str(adapter), str(license), by == "name"


def _policy_of(said: bytes, where: str) -> str | None:
    body = read_table(said, where)
    try:
        policy = body["predicate"]["buildDefinition"]["internalParameters"].get("policyDigest")
    except (KeyError, TypeError, AttributeError):
        raise BadFile(path=where, reason="not a statement of this registry") from None
    return None if policy is None else str(policy)


def _same(where: str, expected: Any, found: Any) -> None:
    """Raises IntegrityError that names the first place where the two differ."""
    difference = _difference(expected, found, "")
    if difference is not None:
        at, wanted, got = difference
        raise IntegrityError(what="attestation", name=where, expected=f"{at} {wanted}", found=got)


def _difference(expected: Any, found: Any, at: str) -> tuple[str, str, str] | None:
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [*sorted({*expected, *found} - {"serialNumber"}), "serialNumber"]  # a digest of the rest, so last
        pairs = [(expected.get(key), found.get(key), f"{at}.{key}".lstrip(".")) for key in keys]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(expected, found, strict=True))]
    else:
        return None if expected == found else (at, _show(expected), _show(found))
    return next((d for a, b, place in pairs if (d := _difference(a, b, place)) is not None), None)


def _show(value: Any) -> str:
    return shorten(canonical_json(value), 80)


def of_release(facts: Attested, files: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """The bill of materials and the statement (not yet in its envelope) for these files."""
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    whole = replace(facts, files=subjects_among(digests))
    bom = bill_of_materials(whole)
    return bom, statement(whole, bom)
