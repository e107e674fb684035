"""An OCI manifest of files, as ModelPack describes models: bytes in, values out. Pure.

Facts: OCI image specification 1.1 (manifest, descriptor, annotations); github.com/modelpack/model-spec (media types of
weights, their settings and documents; ``org.cncf.model.filepath``; the config document).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from w2w_registry.hub.api import HubFile
from w2w_registry.hub.safety import shorten
from w2w_registry.records import canonical_json

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
_WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
_SETTING = "application/vnd.cncf.model.weight.config.v1.raw"
_DOC = "application/vnd.cncf.model.doc.v1.raw"
_PATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"
_PARENT = "w2w.parent"
_MESSAGE = "org.opencontainers.image.description"
_SETTINGS = ("adapter_config.json", "w2w.json", "space.json")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
MOST_FILES = 10_000


@dataclass(frozen=True)
class Manifest:
    """``data``: the very bytes, which ``digest`` (64 hex digits) is of. ``parent``: digest of the manifest before."""

    data: bytes
    digest: str
    config: str
    files: tuple[HubFile, ...]
    parent: str

    @property
    def blobs(self) -> frozenset[str]:
        """Digests of everything it refers to."""
        return frozenset({self.config, *(f.sha256 for f in self.files if f.sha256)})

    @classmethod
    def make(cls, config: bytes, files: Sequence[HubFile], parent: str, message: str) -> Manifest:
        """The manifest of ``files``, in the order given; the same facts give the same bytes."""
        notes = {_MESSAGE: message} | ({_PARENT: f"sha256:{parent}"} if parent else {})
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": {"mediaType": CONFIG, "digest": _digest(config), "size": len(config)},
            "layers": [
                {
                    "mediaType": media_type(file.path),
                    "digest": f"sha256:{file.sha256}",
                    "size": file.size,
                    "annotations": {_PATH: file.path, _TITLE: file.path},
                }
                for file in files
            ],
            "annotations": notes,
        }
        return cls.parse(canonical_json(value).encode())

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """A manifest as a registry sent it.

        Raises:
            ValueError: it is none, or a layer of it has no name; names what is wrong.
        """
        value = _object(_json(data))
        if value.get("mediaType", MANIFEST) != MANIFEST:
            raise ValueError(f"it is a {shorten(str(value['mediaType']), 60)}")
        config = _object(value.get("config"))
        layers = value.get("layers")
        if not isinstance(layers, list) or len(layers) > MOST_FILES:
            raise ValueError("it has no list of layers, or too long a one")
        notes = value.get("annotations")
        parent = _DIGEST.fullmatch(str(notes.get(_PARENT, ""))) if isinstance(notes, dict) else None
        return cls(
            data,
            hashlib.sha256(data).hexdigest(),
            _hex(config),
            tuple(_file(_object(layer)) for layer in layers),
            parent[1] if parent else "",
        )

    @staticmethod
    def tags_in(data: bytes) -> list[str]:
        """The tags of one page of a list of tags. Raises ValueError."""
        tags = _object(_json(data)).get("tags") or []
        if not isinstance(tags, list) or not all(isinstance(t, str) and _TAG.fullmatch(t) for t in tags):
            raise ValueError("a tag that is none")
        return tags


def model_config(files: Sequence[HubFile]) -> bytes:
    """The config document of a model that consists of ``files``: what they are, and nobody's name."""
    value = {
        "descriptor": {},
        "config": {"format": "safetensors"},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in files]},
    }
    return canonical_json(value).encode()


def media_type(path: str) -> str:
    """What a file of a release is, in ModelPack's words."""
    if path.endswith(".safetensors"):
        return _WEIGHT
    return _SETTING if path.rpartition("/")[2] in _SETTINGS else _DOC


def _file(layer: dict[str, Any]) -> HubFile:
    notes = layer.get("annotations")
    notes = notes if isinstance(notes, dict) else {}
    path, size = notes.get(_PATH) or notes.get(_TITLE), layer.get("size")
    if not isinstance(path, str):
        raise ValueError("a layer that is not a named file")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 53:
        raise ValueError(f"a size that is none: {shorten(repr(size), 60)}")
    return HubFile(path, size, "", _hex(layer))


def _hex(descriptor: dict[str, Any]) -> str:
    found = _DIGEST.fullmatch(str(descriptor.get("digest")))
    if found is None:
        raise ValueError(f"a digest that is no SHA-256: {shorten(str(descriptor.get('digest')), 80)}")
    return found[1]


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value
