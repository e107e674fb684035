"""A registered version as files others can load: PEFT, diffusers, kohya, or its coordinates."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from w2w_registry.catalog.models import Identity, Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.vectors import pack
from w2w_registry.consent.policy import Decision
from w2w_registry.consent.records import Use
from w2w_registry.errors import UsageError
from w2w_registry.lora import WRITTEN, DType, lora_files, lora_of, model_digest, not_plain, read_adapter
from w2w_registry.records import Result, canonical_json
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.made_in import look
from w2w_registry.services.consent.results import hold_point
from w2w_registry.services.recording.kept import kept_files
from w2w_registry.services.recording.outputs import check_outputs, holds, write_outputs
from w2w_registry.services.recording.sources import beside_of, open_space_of, source, theta_of
from w2w_registry.services.recording.spaces import no_space
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis.new_versions import Permission

FORMATS: Final = (*WRITTEN, "coordinates", "original")
_LEFT = "tensors of its file have no place in this form; in the format original it has them all"
DTYPES: Final[tuple[DType, ...]] = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, eq=False)
class Exported(Result):
    """What was written, of which version; what a version in no weight space, or its form, does not have is None."""

    identity: str
    space: str | None
    base_model: str | None
    model_digest: str | None
    format: str
    files: list[str]
    bytes: int
    warnings: list[str]
    space_digest: str | None = None
    base_revision: str | None = None
    coordinates_digest: str | None = None


def export(
    registry: Registry,
    ref: str,
    out: str,
    *,
    fmt: str | None = None,
    dtype: DType = "fp32",
    from_coordinates: bool = False,
    purpose: str | None = None,
    force: bool = False,
) -> Exported:
    """Write a version into folder (or ``.safetensors`` / ``.json`` file) ``out``; says what was written.

    ``fmt`` None: as PEFT, and a version in no weight space as the file it is kept as (``original``).
    ``from_coordinates`` writes the version's point in the space even when its own LoRA is stored.

    Raises:
        ConsentDenied, NotFound, UsageError, BadLora, StorageError. OutputExists, OutputInHome: see ``check_outputs``;
        ``force`` replaces files that exist.
    """
    _check_words(fmt, dtype)
    with registry.catalog.read() as session:
        version = version_for(session, ref)
    if fmt == "original" or (fmt is None and version.space_id is None):
        return _original(registry, version, out, purpose=purpose, force=force)
    fmt = fmt or "peft"
    if version.space_id is None:
        return _rewritten(registry, version, out, fmt=fmt, dtype=dtype, purpose=purpose, force=force)
    return _placed(
        registry, ref, out, fmt=fmt, dtype=dtype, from_coordinates=from_coordinates, purpose=purpose, force=force
    )


def _placed(
    registry: Registry,
    ref: str,
    out: str,
    *,
    fmt: str,
    dtype: DType,
    from_coordinates: bool,
    purpose: str | None,
    force: bool,
) -> Exported:
    """A version of a weight space, as its own LoRA or its point."""
    began = time.perf_counter()
    with registry.catalog.read() as session:
        origin = source(session, version_for(session, ref))
    look(registry, [origin.version_id])
    permission = Permission(Use.EXPORT, versions=[origin.version_id], purpose=purpose)
    with registry.catalog.read() as session:
        permission.require(registry, session)
        row, space = open_space_of(registry, session, origin.space_id)
    if origin.artifact_digest is not None and (from_coordinates or fmt == "coordinates"):
        hold_point(registry, origin, space, operation="export")
    data, digest = pack(origin.coordinates)
    facts: dict[str, Any] = {
        "identity": origin.ref,
        "space": row.ref,
        "space_digest": row.digest,
        "base_model": space.base_model,
        "base_revision": space.base_revision,
        "coordinates_digest": digest,
    }
    left: Sequence[str] = ()
    model: str | None = None
    if fmt == "coordinates":
        files = _as_coordinates(out, facts, space.k, data)
    else:
        theta = theta_of(registry, origin, space, row.ref, from_coordinates=from_coordinates)
        beside, left = ((), ()) if from_coordinates else beside_of(registry, origin)
        files = lora_files(
            out,
            space.layout.unflatten(theta),
            space.layout.alpha,
            fmt=fmt,
            dtype=dtype,
            base_model=space.base_model,
            revision=space.base_revision,
            metadata={"w2w": canonical_json(facts)},
            beside=beside,
        )
        model = model_digest(theta, space.layout)
    decision = _leave(registry, permission, origin.version_id, fmt, files, began, force=force)
    return Exported(
        **facts,
        model_digest=model,
        format=fmt,
        files=[str(path) for path in files],
        bytes=sum(map(len, files.values())),
        warnings=[*map(str, decision.warnings), *_left(left)],
    )


def _leave(
    registry: Registry,
    permission: Permission,
    version_id: int,
    fmt: str,
    files: Mapping[Path, bytes],
    began: float,
    *,
    force: bool,
) -> Decision:
    """Write what leaves, after the gate was asked once more in the transaction that says so, and how long it took to
    make since ``began``."""
    check_outputs(registry, *(path for path, content in files.items() if not holds(path, content)), force=force)
    with registry.catalog.write(registry.actor) as uow:
        decision = permission.require(registry, uow.session)
        digests = sorted(sha256(content).hexdigest() for content in files.values())
        took = round(time.perf_counter() - began, 3)
        told = {"format": fmt, "files": digests, "seconds": took, **gate.evidence(decision)}
        uow.event("version.export", {"version": version_id}, **told)
    # The tensor file comes first and is written last: settings beside old tensors would be another model.
    write_outputs(registry, {path: files[path] for path in reversed(list(files))}, force=force)
    return decision


def _left(tensors: Sequence[str]) -> list[str]:
    return [f"{len(tensors)} more {_LEFT}"] if tensors else []


def _check_words(fmt: str | None, dtype: str) -> None:
    if fmt is not None and fmt not in FORMATS:
        raise UsageError(reason=f"unknown format {fmt!r}", hint="one of: " + ", ".join(FORMATS))
    if dtype not in DTYPES:
        raise UsageError(reason=f"unknown dtype {dtype!r}", hint="one of: " + ", ".join(DTYPES))


def _as_coordinates(out: str, facts: Mapping[str, Any], components: int, data: bytes) -> dict[Path, bytes]:
    """The point alone, as a JSON file: float32 in base64."""
    body = {**facts, "format": "w2w-registry coordinates", "dtype": "float32", "components": components}
    path = Path(out) if Path(out).suffix == ".json" else Path(out) / "coordinates.json"
    text = canonical_json({**body, "data": base64.b64encode(data).decode()})
    return {path: (text + "\n").encode()}


def _original(registry: Registry, version: Version, out: str, *, purpose: str | None, force: bool) -> Exported:
    """The adapter as it is kept."""
    began = time.perf_counter()
    name, data = _kept(registry, version, purpose)
    kept = kept_files(data, f"{name.partition('@')[0].rsplit('/', 1)[-1]}.safetensors")
    target = Path(out)
    single = target.suffix == ".safetensors" and len(kept) == 1
    files = {target if single else target / one: content for one, content in kept.items()}
    return _written(registry, version, name, "original", files, began, purpose=purpose, force=force)


def _rewritten(
    registry: Registry,
    version: Version,
    out: str,
    *,
    fmt: str,
    dtype: DType,
    purpose: str | None,
    force: bool,
) -> Exported:
    """A LoRA in no weight space, in another form.

    Raises:
        UsageError: it is another kind of adapter, or what is asked for needs a weight space.
    """
    began = time.perf_counter()
    name, _ = _kept(registry, version, purpose)
    if fmt == "coordinates":
        raise no_space(name)
    with registry.artifacts.local(str(version.artifact_digest)) as path:
        adapter = read_adapter(path)
        reason = not_plain(adapter)
        if reason is not None:
            raise UsageError(reason=f"{name} cannot be written as {fmt}: {reason}", hint="say [[format]] original")
        lora = lora_of(adapter)
    base, revision = version.base_model, version.base_revision
    files = lora_files(out, lora, fmt=fmt, dtype=dtype, base_model=base, revision=revision)
    return _written(registry, version, name, fmt, files, began, purpose=purpose, force=force, left=lora.left)


def _kept(registry: Registry, version: Version, purpose: str | None) -> tuple[str, bytes]:
    """A version's name and number, and the file it is kept as, if it may be exported."""
    Permission(Use.EXPORT, versions=[version.id], purpose=purpose).require(registry)
    with registry.catalog.read() as session:
        name = f"{session.get_one(Identity, version.identity_id).name}@{version.number}"
    if version.artifact_digest is None:
        raise UsageError(reason=f"{name} has no file of its own", hint="export it with [[format]] peft")
    return name, registry.artifacts.get(version.artifact_digest)


def _written(
    registry: Registry,
    version: Version,
    name: str,
    fmt: str,
    files: dict[Path, bytes],
    began: float,
    *,
    purpose: str | None,
    force: bool,
    left: Sequence[str] = (),
) -> Exported:
    permission = Permission(Use.EXPORT, versions=[version.id], purpose=purpose)
    decision = _leave(registry, permission, version.id, fmt, files, began, force=force)
    return Exported(
        identity=name,
        space=None,
        base_model=version.base_model,
        model_digest=version.model_digest,
        format=fmt,
        files=[str(path) for path in files],
        bytes=sum(map(len, files.values())),
        warnings=[*map(str, decision.warnings), *_left(left)],
    )
