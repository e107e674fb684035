"""``w2w.json`` and ``consent.json``: round trip, tampering, and choosing files out of a repo."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_registry.errors import BadFile, BadLora, IntegrityError, RegistryError, UnsafeRepo, UsageError
from w2w_registry.hub import bundle
from w2w_registry.hub.api import HubFile, RepoState
from w2w_registry.records import canonical_json, digest_of

COORDINATES = struct.pack("<3f", 1.5, -2.25, 1e-30)
DOCUMENT = bundle.Document(
    name="acme/alice",
    number=3,
    kind="person",
    space="faces@1",
    space_digest="ab" * 32,
    space_repo="acme/faces@abc",
    base_model="acme/base",
    base_revision=None,
    layout_digest="cd" * 32,
    alpha=27.0,
    layout={"alpha": 27.0, "tensors": [["m", "A", [1, 4]]]},
    coordinates=COORDINATES,
    model_digest="ef" * 32,
    residual=0.25,
    manifest={"coordinates_digest": hashlib.sha256(COORDINATES).hexdigest(), "operation": {"kind": "edit"}},
    files={"adapter_model.safetensors": "12" * 32},
)


def test_round_trip() -> None:
    assert bundle.decode(bundle.encode(DOCUMENT), "w2w.json") == DOCUMENT
    bare = replace(DOCUMENT, layout=None, files={}, residual=None, space_repo=None)
    assert bundle.decode(bundle.encode(bare), "w2w.json") == bare


@given(st.binary(min_size=4, max_size=64).map(lambda b: b[: len(b) // 4 * 4]), st.floats(allow_nan=False))
def test_coordinates_come_back_bit_for_bit(raw: bytes, alpha: float) -> None:
    if alpha in (float("inf"), float("-inf")):
        return
    document = replace(DOCUMENT, coordinates=raw, alpha=alpha, layout=None, manifest={})
    assert bundle.decode(bundle.encode(document), "x") == document


def test_coordinates_in_a_file_of_their_own() -> None:
    file = bundle.encode_coordinates(COORDINATES)
    document = replace(DOCUMENT, layout=None, files={bundle.COORDINATES: hashlib.sha256(file).hexdigest()})
    data = bundle.encode(document)
    assert b'"data"' not in data
    assert bundle.decode(data, "x", {bundle.COORDINATES: file}.__getitem__) == document
    with pytest.raises(BadFile):
        bundle.decode(data, "x")
    with pytest.raises(IntegrityError):
        bundle.decode(data, "x", lambda path: bundle.encode_coordinates(b"\0" * 12))
    for broken in (b"", file[:-1], file + b"\0" * 4, b"\xff" * 60, file.replace(b"F32", b"I32")):
        with pytest.raises((BadFile, IntegrityError)):
            bundle.decode(data, "x", lambda path, broken=broken: broken)  # type: ignore[misc]


def reseal(body: dict[str, Any]) -> bytes:
    """The document with its outer digest made to fit again."""
    inner = {k: v for k, v in body.items() if k != "digest"}
    return canonical_json({**inner, "digest": digest_of(inner)}).encode()


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(body: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            body = body[key]
        body[last] = value

    return apply


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], None], bool, type[RegistryError]]] = {
    "coordinates": (
        change("coordinates.data", base64.b64encode(struct.pack("<3f", 9, 9, 9)).decode()),
        True,
        IntegrityError,
    ),
    "anything, outer digest left": (change("residual", 0.0), False, IntegrityError),
    "coordinates and their digest": (
        lambda b: b["coordinates"].update(
            data=base64.b64encode(b"\0" * 12).decode(), sha256=hashlib.sha256(b"\0" * 12).hexdigest()
        ),
        True,
        IntegrityError,
    ),
    "count": (change("coordinates.components", 10**12), True, BadFile),
    "dtype": (change("coordinates.dtype", "object"), True, BadFile),
    "no coordinates": (lambda b: b.pop("coordinates"), True, BadFile),
    "space digest": (change("space.digest", "../../etc"), True, BadFile),
    "name": (change("identity.name", ["x"]), True, BadFile),
    "long name": (change("identity.name", "x" * 10_000), True, BadFile),
    "files": (change("files", {"a": "short"}), True, BadFile),
    "other format": (change("format", "pickle"), True, BadFile),
    "later version": (change("version", 99), True, BadFile),
    "layout": (change("layout", None), True, BadFile),
    "alpha": (change("layout.alpha", "x"), True, BadFile),
    "bad base64": (change("coordinates.data", "%%%"), True, BadFile),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_is_found(case: str) -> None:
    tamper, seal, kind = TAMPERED[case]
    body = json.loads(bundle.encode(DOCUMENT))
    tamper(body)
    with pytest.raises(kind):
        bundle.decode(reseal(body) if seal else canonical_json(body).encode(), "w2w.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"{", b"null", b'{"format": NaN}', b"[" * 100_000])
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(BadFile):
        bundle.decode(data, "w2w.json")


def test_files_are_held_against_the_document() -> None:
    bundle.check_files(DOCUMENT, {"adapter_model.safetensors": "12" * 32, "more": "00" * 32}, "acme/alice")
    with pytest.raises(IntegrityError):
        bundle.check_files(DOCUMENT, {"adapter_model.safetensors": "13" * 32}, "acme/alice")
    with pytest.raises(IntegrityError, match="nothing"):
        bundle.check_files(DOCUMENT, {}, "acme/alice")


def repo(*paths: str) -> RepoState:
    return RepoState("acme/r", "c" * 40, False, False, tuple(HubFile(p, 100, "b" * 40) for p in paths))


def chosen(*paths: str, name: str | None = None) -> list[str]:
    return [f.path for f in bundle.choose(repo(*paths), name=name).files]


def test_a_strangers_lora_is_found_whatever_its_format() -> None:
    assert chosen("adapter_model.safetensors", "adapter_config.json", "README.md", "x.safetensors") == [
        "adapter_model.safetensors",
        "adapter_config.json",
    ]
    assert chosen("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin") == [
        "pytorch_lora_weights.safetensors"
    ]
    assert chosen("my_kohya.safetensors", "sub/other.safetensors") == ["my_kohya.safetensors"]
    assert chosen("sub/adapter_model.safetensors", "sub/adapter_config.json", name="sub/adapter_model.safetensors") == [
        "sub/adapter_model.safetensors",
        "sub/adapter_config.json",
    ]


def test_a_repo_without_a_usable_lora() -> None:
    with pytest.raises(UnsafeRepo, match="only pickles"):
        chosen("pytorch_lora_weights.bin", "README.md")
    with pytest.raises(BadLora):
        chosen("README.md")
    with pytest.raises(UsageError, match="2 safetensors"):
        chosen("a.safetensors", "b.safetensors")
    with pytest.raises(UsageError, match="no file"):
        chosen("a.safetensors", name="c.safetensors")


def test_ours_is_fetched_as_its_document_lists_it() -> None:
    state = repo("w2w.json", "consent.json", "adapter_model.safetensors", "evil.safetensors", "README.md")
    choice = bundle.choose(state, DOCUMENT)
    assert choice.ours
    assert {f.path for f in choice.files} == {"w2w.json", "consent.json", "adapter_model.safetensors"}


def test_consent_round_trip_says_nothing_about_order() -> None:
    one, two = {"records": [{"identifier": "b"}]}, {"records": [{"identifier": "a"}]}
    data = bundle.encode_consent("granted", [one, two])
    assert data == bundle.encode_consent("granted", [two, one])
    assert bundle.decode_consent(data, "consent.json") == ("granted", (two, one))
    for bad in (b"{}", b'{"format":"w2w-registry consent","subjects":[1]}', b"x"):
        with pytest.raises(BadFile):
            bundle.decode_consent(bad, "consent.json")
