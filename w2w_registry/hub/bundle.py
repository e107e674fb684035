"""What a release holds, and how a pulled one is checked. Pure: bytes in, values out.

A release of a version is a LoRA repo that diffusers and PEFT load, plus ``w2w.json`` (this module's document: space,
coordinates, layout, alpha, manifest, digests of the other files), ``consent.json``, attestations and a model card. A
coordinates-only release leaves the LoRA files and the layout's tensor list out (whoever has the weight space has the
rest), and keeps the coordinates in a binary file of their own, a quarter smaller than in JSON.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Any

from w2w_registry.errors import BadFile, BadLora, IntegrityError, RegistryError, UnsafeRepo, UsageError
from w2w_registry.hub.addresses import address_of
from w2w_registry.hub.api import HubFile, RepoState
from w2w_registry.hub.safety import header_problem, is_pickle, shorten
from w2w_registry.records import canonical_json, digest_of

DOCUMENT = "w2w.json"
CONSENT = "consent.json"
CARD = "README.md"
COORDINATES = "coordinates.safetensors"
SIGNATURE = "model.sig"
BOM = "mlbom.cdx.json"
STATEMENT = "provenance.intoto.jsonl"
PEFT_FILES = ("adapter_model.safetensors", "adapter_config.json")
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
KOHYA_FILE = "lora.safetensors"
SPACE_DOCUMENT = "space.json"
_BESIDE = (DOCUMENT, CONSENT, SIGNATURE, BOM, STATEMENT)  # fetched whether or not the document lists them
PREVIEWS = "previews/"
HUB_TAG = "w2w-registry"
SPACE_TAG = "w2w-space"

FORMAT = "w2w-registry release"
VERSION = 1


@dataclass(frozen=True)
class Described:
    """What every document about a version begins with. ``manifest``: as recorded, perhaps by a stranger."""

    name: str
    number: int
    kind: str
    base_model: str | None
    base_revision: str | None
    model_digest: str
    manifest: Mapping[str, Any]

    def beginning(self) -> dict[str, Any]:
        """These fields alone, for a document that begins with them."""
        return {one.name: getattr(self, one.name) for one in fields(Described)}


@dataclass(frozen=True)
class Released(Described):
    """What every document of a release says. ``files``: path → SHA-256 of the release's other files, the card aside
    (people edit cards)."""

    files: Mapping[str, str]


@dataclass(frozen=True)
class Document(Released):
    """The content of ``w2w.json``. ``coordinates`` are float32 little-endian, 4 bytes a component; ``layout`` is the
    layout's own JSON, or None in a coordinates-only release."""

    base_model: str
    space: str
    space_digest: str
    space_repo: str | None
    layout_digest: str
    alpha: float
    layout: Mapping[str, Any] | None
    coordinates: bytes
    residual: float | None

    @property
    def components(self) -> int:
        return len(self.coordinates) // 4

    @property
    def coordinates_digest(self) -> str:
        return hashlib.sha256(self.coordinates).hexdigest()


def encode(document: Document) -> bytes:
    """``w2w.json``: canonical JSON with a digest over all of it. Coordinates are in it unless their file is listed."""
    layout: dict[str, Any] = {"alpha": document.alpha, "digest": document.layout_digest}
    if document.layout is not None:
        layout |= document.layout
    body: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        **told(document),
        "space": {"name": document.space, "digest": document.space_digest, "repo": document.space_repo},
        "layout": layout,
        "coordinates": {
            "dtype": "float32",
            "components": document.components,
            "sha256": document.coordinates_digest,
            **(
                {"file": COORDINATES}
                if COORDINATES in document.files
                else {"data": base64.b64encode(document.coordinates).decode()}
            ),
        },
        "residual": document.residual,
    }
    return (canonical_json({**body, "digest": digest_of(body)}) + "\n").encode()


def told(document: Released) -> dict[str, Any]:
    """The parts of ``w2w.json`` that every release has."""
    return {
        "identity": {"name": document.name, "number": document.number, "kind": document.kind},
        "base_model": {"id": document.base_model, "revision": document.base_revision},
        "model_digest": document.model_digest,
        "manifest": document.manifest,
        "files": dict(document.files),
    }


def read_told(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ``Released`` that ``told`` wrote. Raises KeyError, TypeError, ValueError: they are not there."""
    return {
        "name": checked_text(body["identity"]["name"]),
        "number": int(body["identity"]["number"]),
        "kind": checked_text(body["identity"]["kind"]),
        "base_model": optional_text(body["base_model"]["id"]),
        "base_revision": optional_text(body["base_model"]["revision"]),
        "model_digest": checked_hex(body["model_digest"]),
        "manifest": dict(body["manifest"]),
        "files": {checked_text(path): checked_hex(digest) for path, digest in dict(body["files"]).items()},
    }


def decode(data: bytes, where: str, read: Callable[[str], bytes] | None = None) -> Document:
    """The document in ``data``, with every digest inside it checked. ``where`` names it in errors.

    Args:
        read: path → content of another file of the release, asked for coordinates that are in one.

    Raises:
        BadFile: not such a document, or of a later format. IntegrityError: a digest does not hold.
    """
    body = _table(data, where)
    try:
        if body["format"] != FORMAT:
            raise BadFile(path=where, reason="not a release of this registry")
        if body["version"] != VERSION:
            raise BadFile(
                path=where,
                reason=f"release format {body['version']}, this release reads {VERSION}",
                hint="upgrade w2w-registry",
            )
        check_same("release", where, str(body["digest"]), digest_of({k: v for k, v in body.items() if k != "digest"}))
        coordinates = body["coordinates"]
        if "file" in coordinates:
            if read is None:
                raise BadFile(path=where, reason="its coordinates are in a file that is not available here")
            raw = decode_coordinates(read(checked_text(coordinates["file"])))
        else:
            raw = base64.b64decode(coordinates["data"], validate=True)
        check_same("coordinates", where, str(coordinates["sha256"]), hashlib.sha256(raw).hexdigest())
        if coordinates["dtype"] != "float32" or len(raw) != 4 * int(coordinates["components"]) or not raw:
            raise BadFile(path=where, reason="the coordinates are not the number of float32 values stated")
        layout = body["layout"]
        checked_text(body["base_model"]["id"])  # what has a point in a space has a base model
        document = Document(
            **read_told(body),
            space=checked_text(body["space"]["name"]),
            space_digest=checked_hex(body["space"]["digest"]),
            space_repo=optional_text(body["space"]["repo"]),
            layout_digest=checked_hex(layout["digest"]),
            alpha=float(layout["alpha"]),
            layout={k: layout[k] for k in ("alpha", "tensors")} if "tensors" in layout else None,
            coordinates=raw,
            residual=None if body["residual"] is None else float(body["residual"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, RecursionError) as error:
        raise BadFile(path=where, reason=f"not a release document ({_named(error)})") from None
    recorded = document.manifest.get("coordinates_digest")
    if recorded is not None:
        check_same("manifest's coordinates", where, str(recorded), document.coordinates_digest)
    return document


def encode_coordinates(raw: bytes) -> bytes:
    """Float32 coordinates as a safetensors file of one tensor."""
    entry = {"coordinates": {"dtype": "F32", "shape": [len(raw) // 4], "data_offsets": [0, len(raw)]}}
    header = canonical_json(entry).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + raw


def decode_coordinates(data: bytes) -> bytes:
    """The coordinates out of such a file. Raises ValueError or KeyError when it is none."""
    length = int.from_bytes(data[:8], "little")
    if header_problem(data, len(data)) is not None:
        raise ValueError("the coordinates' file is not a safetensors file")
    entry = json.loads(data[8 : 8 + length])["coordinates"]
    raw = data[8 + length :]
    if entry["dtype"] != "F32" or entry["data_offsets"] != [0, len(raw)] or entry["shape"] != [len(raw) // 4]:
        raise ValueError("the coordinates' file holds something else")
    return raw


def check_files(document: Released, found: Mapping[str, str], where: str) -> None:
    """That the files fetched (path → SHA-256) are the ones the document lists.

    Raises:
        IntegrityError: one is missing or another.
    """
    for path, expected in document.files.items():
        check_same("file", f"{where}/{path}", expected, found.get(path, "nothing"))


def read_table(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object out of a stranger's file.

    Raises:
        BadFile: when it is not one.
    """
    return _table(data, where)


def _table(data: bytes, where: str) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BadFile(path=where, reason="not JSON") from None
    if not isinstance(body, dict):
        raise BadFile(path=where, reason="not a table")
    return body


def check_same(what: str, name: str, expected: str, found: str) -> None:
    """Raises IntegrityError when the two differ."""
    if expected != found:
        raise IntegrityError(what=what, name=name, expected=expected, found=found)


def _named(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else shorten(str(error), 60)


def checked_text(value: Any) -> str:
    """A text of sensible length out of a stranger's table. Raises ValueError."""
    if not isinstance(value, str) or len(value) > 4096:
        raise ValueError("a text is expected")
    return value


def optional_text(value: Any) -> str | None:
    """As ``checked_text``, or None where there is none."""
    return None if value is None else checked_text(value)


def checked_hex(value: Any) -> str:
    """A SHA-256 in hex. Raises ValueError."""
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ValueError("a SHA-256 is expected")
    return value


# -- what to fetch from a repo -----------------------------------------------------------------
@dataclass(frozen=True)
class Choice:
    """Files worth fetching. ``ours``: the repo is a release of a registry like this one."""

    ours: bool
    files: tuple[HubFile, ...]


def choose(state: RepoState, document: Released | None = None, *, name: str | None = None) -> Choice:
    """Which files make up the LoRA in a repo: ours as its document lists them, a stranger's whatever its format.

    Args:
        name: the one file wanted, for a repo that holds several LoRAs.

    Raises:
        UnsafeRepo: nothing but pickles. BadLora: no LoRA file at all. UsageError: several, and none was named.
    """
    by_path = {f.path: f for f in state.files}
    if document is not None:
        listed = [by_path[p] for p in document.files if p in by_path]
        extra = [by_path[p] for p in _BESIDE if p in by_path and p not in document.files]
        return Choice(True, tuple(listed + extra))
    if name is not None:
        if name not in by_path:
            raise UsageError(reason=f"{state.repo_id} has no file {shorten(name)}", hint=_offer(by_path))
        return Choice(False, _with_config(by_path, name))
    for known in (DIFFUSERS_FILE, PEFT_FILES[0]):  # the first holds every part of the pipeline, the second one
        if known in by_path:
            return Choice(False, _with_config(by_path, known))
    tensors = sorted(p for p in by_path if p.lower().endswith(".safetensors"))
    top = [p for p in tensors if "/" not in p] or tensors
    if len(top) == 1:
        return Choice(False, _with_config(by_path, top[0]))
    if top:
        raise UsageError(
            reason=f"{state.repo_id} holds {len(top)} safetensors files",
            hint=f"name one with [[file]]; {_offer(by_path)}",
        )
    raise _nothing(state, by_path)


def _nothing(state: RepoState, by_path: Mapping[str, HubFile]) -> RegistryError:
    pickles = sorted(p for p in by_path if is_pickle(p))
    if pickles:
        return UnsafeRepo(
            repo=state.repo_id,
            path=pickles[0],
            reason=f"holds only pickles ({shorten(pickles[0])}), which could run code when opened; none was fetched",
            status=None,
        )
    return BadLora(path=address_of(state.repo_id), reason="the repo holds no LoRA (no .safetensors file)")


def _with_config(by_path: Mapping[str, HubFile], path: str) -> tuple[HubFile, ...]:
    beside = (str(PurePosixPath(path).with_name(PEFT_FILES[1])), STATEMENT)
    return (by_path[path], *(by_path[other] for other in beside if other in by_path and other != path))


def _offer(by_path: Mapping[str, HubFile]) -> str:
    tensors = sorted(p for p in by_path if p.lower().endswith(".safetensors"))
    return (
        f"there are {', '.join(shorten(p, 40) for p in tensors[:5])}" if tensors else "there are no .safetensors files"
    )


def managed(path: str) -> bool:
    """Whether a release owns this path: only such files are removed when a new release no longer has them."""
    own = {*_BESIDE, COORDINATES, CARD, DIFFUSERS_FILE, KOHYA_FILE, SPACE_DOCUMENT, *PEFT_FILES}
    spaces = {"space.safetensors", "spectrum.svg"}
    shard = path.startswith("components-") and path.endswith(".safetensors")
    folder, _, name = path.rpartition("/")
    part = folder in ("text_encoder", "text_encoder_2", "text_encoder_3") and name in PEFT_FILES
    return path in own | spaces or shard or part or path.startswith(PREVIEWS)


# -- consent -----------------------------------------------------------------------------------
def encode_consent(
    state: str, subjects: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None
) -> bytes:
    """``consent.json``: the state of everyone depicted together, and each one's records, without saying who.

    ``subjects``: one receipt per subject depicted; the order says nothing. ``context``: the JSON-LD context of all.
    """
    ordered = sorted(subjects, key=canonical_json)
    head = {} if context is None else {"@context": dict(context)}
    body = {**head, "format": "w2w-registry consent", "version": 1, "state": state, "subjects": ordered}
    return (canonical_json(body) + "\n").encode()


def decode_consent(data: bytes, where: str) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """State and receipts out of ``consent.json``.

    Raises:
        BadFile: when it is not such a file.
    """
    body = _table(data, where)
    subjects = body.get("subjects")
    if body.get("format") != "w2w-registry consent" or not isinstance(subjects, list):
        raise BadFile(path=where, reason="not a consent file of this registry")
    if not all(isinstance(s, dict) and isinstance(s.get("records"), list) for s in subjects):
        raise BadFile(path=where, reason="a subject without records")
    return str(body.get("state")), tuple(subjects)
