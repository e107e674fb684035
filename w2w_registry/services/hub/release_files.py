"""What goes into a release: a version's facts read from the catalog, turned into the files of its repo."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import PLAIN_ADAPTER
from w2w_registry.catalog.lineage import inputs_of
from w2w_registry.catalog.lookup import labels_of
from w2w_registry.catalog.models import (
    Coordinates,
    InputKind,
    Space,
    Version,
)
from w2w_registry.catalog.publications import space_release
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.vectors import unpack
from w2w_registry.errors import MissingExtra, UsageError
from w2w_registry.hub import adapter_release, bundle
from w2w_registry.hub.card import CardFacts, Preview, model_card
from w2w_registry.lora import WRITTEN, LoraFile, lora_files, model_digest, not_plain, read_adapter, read_lora
from w2w_registry.services.hub.published_consent import Consent
from w2w_registry.services.recording.kept import kept_files
from w2w_registry.services.recording.manifests import manifest_of
from w2w_registry.services.recording.preview_pictures import kept_preview, leaving_preview
from w2w_registry.services.recording.sources import own_lora
from w2w_registry.services.recording.spaces import load_space, no_space
from w2w_registry.services.registry import Registry
from w2w_registry.space.layout import Layout, TensorKey

DEFAULT_FORMATS = ("peft", "diffusers")
FORMATS = tuple(WRITTEN)
WEIGHTS = frozenset(form.FILE for form in WRITTEN.values())
"""What the formats call their files."""


@dataclass(frozen=True)
class Options:
    """How a release is made, apart from where it goes."""

    formats: tuple[str, ...] = DEFAULT_FORMATS
    coordinates_only: bool = False
    license: str = "other"
    instance_prompt: str | None = None
    purpose: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "formats": list(self.formats)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Options:
        return cls(**{**data, "formats": tuple(data["formats"])})

    @property
    def word(self) -> str:
        """What the release row calls its format."""
        return "coordinates" if self.coordinates_only else "+".join(self.formats)


@dataclass(frozen=True)
class Place:
    """Where a version lies: its weight space (``repo``: where that is published) and its coordinates there."""

    space_id: int
    space: str
    digest: str
    repo: str | None
    layout: Layout
    coordinates: bytes


@dataclass(frozen=True)
class VersionFacts(bundle.Described):
    """A version as its release tells of it. ``place``: None when no weight space holds it; ``adapter``: its kind."""

    version_id: int
    state: str
    adapter: str
    place: Place | None
    residual: float | None
    operation: str
    instance_prompt: str | None
    made_from: tuple[str, ...]
    artifact_digest: str | None
    preview_digest: str | None
    labels: Mapping[str, float | str]

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"


def read_facts(registry: Registry, session: Session, version: Version) -> VersionFacts:
    """Everything the catalog has on a version that a release tells.

    Raises:
        UsageError: its coordinates, or its file, were erased.
    """
    name = version.identity.name
    if version.space is None and version.artifact_digest is None:
        raise no_space(f"{name}@{version.number}")
    inputs = inputs_of(session, version.operation_id)
    place = _place(session, version)
    kept = version.artifact_digest if place is None else own_lora(version)
    # Of a translated adapter what its coordinates say is published: the file it came as is no LoRA of the space.
    translated = kept is None and version.artifact_digest is not None
    prompt = version.operation.params.get("instance_prompt") or version.operation.params.get("prompt")
    return VersionFacts(
        version_id=version.id,
        name=name,
        number=version.number,
        kind=str(version.identity.kind),
        state=str(version.state),
        adapter=PLAIN_ADAPTER if translated else version.adapter or PLAIN_ADAPTER,
        place=place,
        # Of the numbers published: the one an earlier release recorded may differ in a last bit.
        model_digest=_point_digest(registry, session, place) if kept is None and place else version.model_digest,
        residual=version.residual,
        base_model=version.base_model or (version.space.base_model if translated and version.space else None),
        base_revision=version.base_revision,
        operation=version.operation.kind,
        instance_prompt=prompt if isinstance(prompt, str) else None,
        made_from=tuple(i.ref for i in inputs if i.ref and i.kind in (InputKind.VERSION, InputKind.HUB)),
        artifact_digest=kept,
        preview_digest=version.preview_digest,
        manifest=_manifest(registry, session, version),
        labels=labels_of(session, [version.id]).get(version.id, {}),
    )


def _place(session: Session, version: Version) -> Place | None:
    space = version.space
    if space is None:
        return None
    point = session.get(Coordinates, (space.id, version.id))
    if point is None:
        raise UsageError(reason=f"{version.identity.name}@{version.number} has no coordinates any more")
    layout = Layout.from_json(space.layout)
    return Place(space.id, space.ref, space.digest, _space_repo(session, space.id), layout, point.data)


def _point_digest(registry: Registry, session: Session, place: Place) -> str:
    """The digest of the LoRA that coordinates amount to in their space."""
    space = load_space(registry.artifacts, session.get_one(Space, place.space_id))
    return model_digest(space.reconstruct(unpack(place.coordinates)), space.layout)


def find_facts(registry: Registry, session: Session, name: str) -> VersionFacts:
    """The facts of the version a reference means. Raises NotFound."""
    return read_facts(registry, session, version_for(session, name))


def _manifest(registry: Registry, session: Session, version: Version) -> Mapping[str, Any]:
    """The manifest recorded with the version (a pulled one keeps its own), else the one its rows amount to."""
    if version.manifest_digest is not None and registry.artifacts.exists(version.manifest_digest):
        recorded: Mapping[str, Any] = json.loads(registry.artifacts.get(version.manifest_digest))
        return recorded
    return manifest_of(session, version)


def _space_repo(session: Session, space_id: int) -> str | None:
    """Where the space itself is published, so that a stranger can fetch it."""
    row = space_release(session, space_id)
    return None if row is None else f"{row.repo_id}@{row.commit_id}"


def weights_of(
    registry: Registry, facts: VersionFacts, space: Space | None
) -> LoraFile | dict[TensorKey, np.ndarray[Any, np.dtype[np.float32]]]:
    """The LoRA itself: as it came in when it was kept, else what its coordinates say in the space.

    Raises:
        NotFound, BadLora, IntegrityError: the stored file is gone or damaged.
    """
    if facts.artifact_digest is None:
        assert space is not None
        assert facts.place is not None
        arrays = load_space(registry.artifacts, space)
        return arrays.layout.unflatten(arrays.reconstruct(unpack(facts.place.coordinates)))
    with registry.artifacts.local(facts.artifact_digest) as path:
        return read_lora(path)


def preview_of(registry: Registry, facts: VersionFacts, *, dry_run: bool) -> tuple[bytes | None, tuple[str, ...]]:
    """The picture that goes with the release, marked and on record, and what there is to say when it stays out.

    Args:
        dry_run: nothing is marked that was not before; the picture stands for the one that would leave.
    """
    if facts.preview_digest is None or not registry.artifacts.exists(facts.preview_digest):
        return None, ()
    if dry_run:
        kept = kept_preview(registry, facts.version_id, facts.preview_digest)
        return kept or registry.artifacts.get(facts.preview_digest), ()
    try:
        return leaving_preview(registry, facts.version_id, facts.preview_digest), ()
    except MissingExtra:
        return None, ("the preview stays here: pictures leave marked, which needs pip install 'w2w-registry[marking]'",)


def build_files(
    registry: Registry,
    facts: VersionFacts,
    space: Space | None,
    consent: Consent,
    options: Options,
    repo_id: str,
    preview: bytes | None,
) -> dict[str, bytes]:
    """Every file of the release, by path. The same facts, options and preview give the same bytes."""
    files: dict[str, bytes] = {}
    if not options.coordinates_only:
        files |= _weight_files(registry, facts, space, options)
    elif facts.place is None:
        raise no_space(facts.ref)
    previews: tuple[Preview, ...] = ()
    if preview is not None:
        path = f"{bundle.PREVIEWS}1.png"
        files[path] = preview
        previews = (Preview(path, options.instance_prompt or facts.instance_prompt or facts.name),)
    if consent.likeness:
        files[bundle.CONSENT] = consent.file
    place = facts.place
    if place is not None and options.coordinates_only:
        files[bundle.COORDINATES] = bundle.encode_coordinates(place.coordinates)
    if place is not None and facts.base_model is not None:
        files[bundle.DOCUMENT] = bundle.encode(_document(facts, place, files, options))
    elif not options.coordinates_only:
        files[bundle.DOCUMENT] = adapter_release.encode(_adapter_document(facts, files))
    card = _card_facts(facts, options, consent, repo_id, files, previews)
    files[bundle.CARD] = model_card(card).encode()
    return files


def _document(facts: VersionFacts, place: Place, files: Mapping[str, bytes], options: Options) -> bundle.Document:
    """What the release says of itself to registries; ``files``: those it vouches for, by path."""
    return bundle.Document(
        **facts.beginning(),
        files=_digests(files),
        space=place.space,
        space_digest=place.digest,
        space_repo=place.repo,
        layout_digest=place.layout.digest,
        alpha=float(place.layout.alpha),
        layout=None if options.coordinates_only else place.layout.to_json(),
        coordinates=place.coordinates,
        residual=facts.residual,
    )


def _adapter_document(facts: VersionFacts, files: Mapping[str, bytes]) -> adapter_release.AdapterDocument:
    """As ``_document``, of what no weight space holds, or one of a base model nobody named."""
    return adapter_release.AdapterDocument(
        **facts.beginning(),
        files=_digests(files),
        adapter=facts.adapter,
        labels={name: facts.labels[name] for name in adapter_release.PUBLISHED if name in facts.labels},
    )


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())}


def _card_facts(
    facts: VersionFacts,
    options: Options,
    consent: Consent,
    repo_id: str,
    files: Collection[str],
    previews: tuple[Preview, ...],
) -> CardFacts:
    """What the release says of itself to people."""
    place = facts.place
    return CardFacts(
        repo_id=repo_id,
        name=facts.name,
        number=facts.number,
        kind=facts.kind,
        base_model=facts.base_model,
        base_revision=facts.base_revision,
        adapter=facts.adapter,
        weight_file=next((name for name in (bundle.DIFFUSERS_FILE, bundle.KOHYA_FILE) if name in files), None),
        space=None if place is None else place.space,
        space_digest="" if place is None else place.digest,
        components=0 if place is None else len(place.coordinates) // 4,
        operation=facts.operation,
        made_from=facts.made_from,
        residual=facts.residual,
        license=options.license,
        instance_prompt=options.instance_prompt or facts.instance_prompt,
        previews=previews,
        weights=not options.coordinates_only,
        likeness=consent.likeness,
        consent=consent.facts,
    )


def _weight_files(registry: Registry, facts: VersionFacts, space: Space | None, options: Options) -> dict[str, bytes]:
    """The adapter: a LoRA in the forms asked for, another kind as the file it is kept as."""
    if facts.place is None and facts.artifact_digest is not None:
        with registry.artifacts.local(facts.artifact_digest) as path:
            plain = not_plain(read_adapter(path)) is None
        if not plain:
            return kept_files(registry.artifacts.get(facts.artifact_digest), bundle.KOHYA_FILE)
    lora = weights_of(registry, facts, space)
    alpha = None if isinstance(lora, LoraFile) or facts.place is None else facts.place.layout.alpha
    files: dict[str, bytes] = {}
    for fmt in options.formats:
        made = lora_files("out", lora, alpha, fmt=fmt, base_model=facts.base_model, revision=facts.base_revision)
        files |= {str(path.relative_to("out")): data for path, data in made.items()}
    return files
