"""Attestations as other tools read them: CycloneDX's own validator, in-toto's own types, DSSE from its text."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.schema import SchemaVersion
from cyclonedx.schema import _res as cyclonedx_files
from cyclonedx.validation.json import JsonStrictValidator

from w2w_registry.errors import BadFile, IntegrityError
from w2w_registry.hub import dsse, spdx
from w2w_registry.hub.attestations import Attested, check, of_release
from w2w_registry.services.signing import new_key_pair

FILES = {"adapter_model.safetensors": b"weights", "consent.json": b"{}", "w2w.json": b"{}", "README.md": b"# card"}
MANIFEST: dict[str, Any] = {
    "format": "w2w-registry manifest",
    "operation": {
        "kind": "invert",
        "parameters": {"steps": 400, "rate": 0.1},
        "code_version": "1.2.3",
        "inputs": [
            {"kind": "photo", "role": "photo", "digest": "1" * 64},
            {"kind": "photo", "role": "photo", "digest": "2" * 64},
            {"kind": "space", "role": "space", "digest": "3" * 64},
            {"kind": "version", "role": "start", "manifest": "4" * 64},
            {"kind": "file", "role": "file", "name": "unnamed"},
        ],
    },
}
FACTS = Attested(
    name="acme/alice",
    number=3,
    kind="person",
    adapter="lora",
    model_digest="a" * 64,
    base_model="acme/tiny-base",
    base_revision="b" * 40,
    license="mit",
    manifest=MANIFEST,
    files={},
    policy="c" * 64,
)
CASES = {
    "whole": FACTS,
    "no base model": replace(FACTS, base_model=None, base_revision=None),
    "base model in a folder": replace(FACTS, base_model="/models/sd 15", base_revision="main"),
    "no policy": replace(FACTS, policy=None),
    "an empty manifest": replace(FACTS, manifest={}),
    "a stranger's manifest": replace(FACTS, manifest={"operation": {"kind": 7, "inputs": ["x", {"digest": [1]}]}}),
    "a stranger's operation": replace(FACTS, manifest={"operation": [1, 2]}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bill_of_materials_is_valid_cyclonedx(case: str) -> None:
    bom, _ = of_release(CASES[case], FILES)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom.decode()) is None


def test_the_validator_finds_what_is_wrong() -> None:
    body = json.loads(of_release(FACTS, FILES)[0])
    body["metadata"]["component"]["modelCard"]["surprise"] = 1
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(body)) is not None


def test_what_the_bill_of_materials_says() -> None:
    body = json.loads(of_release(FACTS, FILES)[0])
    model = body["metadata"]["component"]
    assert (model["name"], model["version"]) == ("acme/alice", "3")
    assert model["licenses"] == [{"license": {"id": "MIT"}}]
    assert [c["name"] for c in model["components"]] == ["adapter_model.safetensors", "consent.json", "w2w.json"]
    assert model["externalReferences"][0]["url"] == "consent.json"
    ancestors = model["pedigree"]["ancestors"]
    assert ancestors[0]["purl"] == f"pkg:huggingface/acme/tiny-base@{'b' * 40}"
    assert ancestors[1]["properties"] == [{"name": "w2w-registry:manifest_digest", "value": "4" * 64}]
    data = [c for c in body["components"] if c["type"] == "data"]
    assert [c["hashes"][0]["content"][0] for c in data] == ["1", "2", "3"]
    assert [d["ref"] for d in model["modelCard"]["modelParameters"]["datasets"]] == [c["bom-ref"] for c in data]


LICENSES: dict[str, dict[str, Any]] = {
    "apache-2.0": {"license": {"id": "Apache-2.0"}},
    "CC-BY-NC-4.0": {"license": {"id": "CC-BY-NC-4.0"}},
    "mit or (apache-2.0 AND cc0-1.0)": {"expression": "MIT OR (Apache-2.0 AND CC0-1.0)"},
    "gpl-2.0+ or mit": {"expression": "GPL-2.0+ OR MIT"},
    "other": {"license": {"name": "other"}},
    "creativeml-openrail-m": {"license": {"name": "creativeml-openrail-m"}},
    "mit or": {"license": {"name": "mit or"}},
    "(mit": {"license": {"name": "(mit"}},
    "mit apache-2.0": {"license": {"name": "mit apache-2.0"}},
    "mit or my own": {"license": {"name": "mit or my own"}},
}


@pytest.mark.parametrize("text", LICENSES)
def test_a_licence_is_named_as_spdx_names_it(text: str) -> None:
    bom, _ = of_release(replace(FACTS, license=text), FILES)
    assert json.loads(bom)["metadata"]["component"]["licenses"] == [LICENSES[text]]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom.decode()) is None


def test_every_licence_we_know_is_one_that_cyclonedx_knows() -> None:
    listed = json.loads((Path(cyclonedx_files.__file__).parent / "spdx.SNAPSHOT.schema.json").read_text())["enum"]
    ours = spdx._IDS.split()
    assert len(ours) > 600
    assert set(ours) <= set(listed)


@pytest.mark.parametrize("text", LICENSES)
@pytest.mark.parametrize("named", [False, True], ids=["now", "by an earlier release"])
def test_a_licence_is_read_back_as_it_was_given(text: str, named: bool) -> None:
    facts = replace(FACTS, license=text, named=named)
    bom, statement = of_release(facts, FILES)
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    check(FACTS, digests, bom, dsse.encode(statement, None), "here")
    said = json.loads(bom)["metadata"]["component"]["licenses"][0]
    assert not named or said == {"license": {"name": text}}


@pytest.mark.parametrize("case", CASES)
def test_the_statement_is_an_in_toto_statement(case: str) -> None:
    statement = pytest.importorskip("in_toto_attestation.v1.statement")
    pb = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    json_format = pytest.importorskip("google.protobuf.json_format")
    said = json_format.Parse(of_release(CASES[case], FILES)[1], pb.Statement())
    statement.Statement.copy_from_pb(said).validate()
    assert [s.name for s in said.subject] == ["adapter_model.safetensors", "consent.json", "mlbom.cdx.json", "w2w.json"]


def test_no_number_is_left_to_a_reader_that_rounds() -> None:
    def numbers(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [n for v in value.values() for n in numbers(v)]
        if isinstance(value, list):
            return [n for v in value for n in numbers(v)]
        return [value] if isinstance(value, (int, float)) else []

    assert numbers(json.loads(of_release(FACTS, FILES)[1])) == []


def test_the_same_facts_give_the_same_bytes(tmp_path: Path) -> None:
    key = Path(new_key_pair(tmp_path)["private_key"])
    shuffled = dict(reversed(FILES.items()))
    assert of_release(FACTS, FILES) == of_release(FACTS, shuffled)
    assert dsse.encode(b"{}", key) == dsse.encode(b"{}", key)
    assert of_release(FACTS, FILES) != of_release(replace(FACTS, license="other"), FILES)


def test_an_envelope_holds_by_the_words_of_its_specification(tmp_path: Path) -> None:
    keys = new_key_pair(tmp_path)
    envelope = json.loads(dsse.encode(b'{"a": 1}', Path(keys["private_key"])))
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    public = serialization.load_pem_public_key(Path(keys["public_key"]).read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    public.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(signature, signed + b" ", ec.ECDSA(hashes.SHA256()))


def test_an_envelope_changed_after_signing(tmp_path: Path) -> None:
    keys, others = new_key_pair(tmp_path / "a"), new_key_pair(tmp_path / "b")
    data = dsse.encode(b"{}", Path(keys["private_key"]))
    assert dsse.check(data, Path(keys["public_key"]), "x")
    assert not dsse.check(data, Path(others["public_key"]), "x")
    assert not dsse.check(dsse.encode(b"{}", None), Path(keys["public_key"]), "x")
    body = json.loads(data)
    body["payload"] = base64.b64encode(b"[]").decode()
    with pytest.raises(IntegrityError, match="something else"):
        dsse.check(json.dumps(body).encode(), Path(keys["public_key"]), "x")
    for broken in (b"", b"[]", b"{}", b'{"payloadType":"application/vnd.in-toto+json","payload":"!","signatures":[]}'):
        with pytest.raises(BadFile):
            dsse.decode(broken, "x")


def test_a_key_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("none")
    with pytest.raises(BadFile, match="private key"):
        dsse.encode(b"{}", tmp_path / "key")
