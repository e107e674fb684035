"""Content credentials: a signed C2PA manifest inside a picture's own bytes, and its reading.

The manifest says that a trained model made the picture (``c2pa.created`` with ``trainedAlgorithmicMedia``), that a
watermark was put in (``c2pa.watermarked``), and by which model: an ingredient that names the digest of the model's
manifest, never the person. Everything happens offline; c2pa-python does the work.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from w2w_registry.errors import BadImage, MissingExtra
from w2w_registry.marking.certificates import Credentials
from w2w_registry.pictures import COMPOSITE_TYPE, SOURCE_TYPE

ALGORITHM: Final = "org.w2w-registry.spread-spectrum.1"
"""The watermark, as ``c2pa.watermarked`` names it."""


@dataclass(frozen=True)
class Statement:
    """What is said of a picture. ``model``: SHA-256 (hex) of the model's manifest, None when several or none made it;
    ``watermarked``: whether the pixels carry the mark, and ``mark``: the number it carries, if any; ``generator``: name
    and version of the software; ``composite``: a sheet of pictures from elsewhere."""

    generator: tuple[str, str]
    model: str | None = None
    watermarked: bool = True
    mark: int | None = None
    composite: bool = False


@dataclass(frozen=True)
class Claim:
    """What a picture's manifest says. ``state``: ``trusted``, ``valid`` (unbroken, signed by someone not trusted here)
    or ``invalid``; ``model``: the digest an ingredient names; ``problems``: codes of what does not hold."""

    state: str
    issuer: str | None
    generator: str | None
    ai_generated: bool
    watermarked: bool
    model: str | None
    mark: int | None = None
    problems: tuple[str, ...] = ()


def sign(data: bytes, mime: str, statement: Statement, credentials: Credentials) -> bytes:
    """The picture ``data`` with the manifest in it. A manifest that it had before is replaced.

    Raises:
        MissingExtra: c2pa-python is not installed. BadImage: the picture or the key cannot be used.
    """
    c2pa = _library()
    out = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo(b"es256", credentials.chain.encode(), credentials.key.encode(), None)
        with (
            c2pa.Context.from_dict(_settings(None)) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(_manifest(statement, mime), context=context) as builder,
        ):
            builder.sign(signer, mime, io.BytesIO(data), out)
    except c2pa.C2paError as error:
        raise BadImage(path="picture", reason=f"content credentials: {error}") from None
    return out.getvalue()


def read(data: bytes, mime: str, root: str | None = None) -> Claim | None:
    """What the picture's manifest says, None when it has none. ``root``: PEM of the authority to trust.

    Raises:
        MissingExtra: c2pa-python is not installed.
    """
    c2pa = _library()
    try:
        with c2pa.Context.from_dict(_settings(root)) as context:
            reader = c2pa.Reader.try_create(mime, io.BytesIO(data), context=context)
            if reader is None:
                return None
            with reader:
                return _claim(json.loads(reader.json()))
    except c2pa.C2paError as error:
        return Claim("invalid", None, None, False, False, None, problems=(str(error),))


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        raise MissingExtra(package="c2pa-python", extra="marking", feature="signing pictures") from None
    return c2pa


def _settings(root: str | None) -> dict[str, Any]:
    """Thumbnails off (they add up to 600 kB), nothing fetched; who is trusted."""
    settings: dict[str, Any] = {
        "version": 1,
        "builder": {"thumbnail": {"enabled": False}},
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": root is not None},
    }
    if root is not None:
        settings["trust"] = {"user_anchors": root}
    return settings


def _manifest(statement: Statement, mime: str) -> dict[str, Any]:
    actions: list[dict[str, Any]] = [
        {"action": "c2pa.created", "digitalSourceType": COMPOSITE_TYPE if statement.composite else SOURCE_TYPE}
    ]
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "created": True, "data": {"actions": actions}}]
    if statement.watermarked and statement.mark is not None:
        # "watermarked" wants the number as a soft binding (C2PA 2.2, §9.3); one without a number is "unbound".
        actions.append({"action": "c2pa.watermarked.bound"})
        value = base64.b64encode(statement.mark.to_bytes(4, "big")).decode()
        binding = {"alg": ALGORITHM, "blocks": [{"scope": {}, "value": value}]}
        assertions.append({"label": "c2pa.soft-binding", "created": True, "data": binding})
    elif statement.watermarked:
        actions.append({"action": "c2pa.watermarked.unbound"})
    name, version = statement.generator
    manifest: dict[str, Any] = {
        "claim_version": 2,
        "claim_generator_info": [{"name": name, "version": version}],
        "format": mime,
        "assertions": assertions,
    }
    if statement.model is not None:
        actions[0]["parameters"] = {"ingredientIds": ["model"]}
        manifest["ingredients"] = [
            {
                "label": "model",
                "title": f"model sha256:{statement.model}",
                "format": "application/octet-stream",
                "instance_id": f"urn:sha256:{statement.model}",
                "relationship": "inputTo",
            }
        ]
    return manifest


def _claim(store: Mapping[str, Any]) -> Claim:
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    actions = [
        action
        for assertion in manifest.get("assertions", [])
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", [])
    ]
    generator: Mapping[str, Any] = next(iter(manifest.get("claim_generator_info") or []), {})
    names = [str(i.get("instance_id", "")) for i in manifest.get("ingredients", [])]
    return Claim(
        state=str(store.get("validation_state", "invalid")).lower(),
        issuer=manifest.get("signature_info", {}).get("issuer"),
        generator=" ".join(str(generator[k]) for k in ("name", "version") if generator.get(k)) or None,
        ai_generated=any(a.get("digitalSourceType") in (SOURCE_TYPE, COMPOSITE_TYPE) for a in actions),
        watermarked=any(str(a.get("action")).startswith("c2pa.watermarked") for a in actions),
        model=next((n.removeprefix("urn:sha256:") for n in names if n.startswith("urn:sha256:")), None),
        mark=_mark(manifest.get("assertions", [])),
        problems=tuple(sorted({str(s.get("code")) for s in store.get("validation_status") or []})),
    )


def _mark(assertions: Sequence[Mapping[str, Any]]) -> int | None:
    """The number that the soft binding of our own algorithm names."""
    for assertion in assertions:
        data = assertion.get("data", {})
        if str(assertion.get("label", "")).startswith("c2pa.soft-binding") and data.get("alg") == ALGORITHM:
            for block in data.get("blocks", []):
                try:
                    value = base64.b64decode(str(block.get("value", "")), validate=True)
                except binascii.Error:
                    continue
                if len(value) == 4:
                    return int.from_bytes(value, "big")
    return None
