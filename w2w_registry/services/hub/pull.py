"""``pull``: a LoRA repo of the Hub becomes a version here, whoever made it.

One of ours (it has a ``w2w.json``): every digest is checked, the weights are held against the coordinates, then the
coordinates are taken as they are, bit for bit, with the manifest and the consents it was published under. A
stranger's: files found whatever the format, fetched only when names, sizes and headers are harmless, placed in a
space like any added file. Nothing is opened but safetensors and JSON; everything lands in a temporary folder first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.artifacts import temporary_folder
from w2w_registry.catalog.lookup import version_at
from w2w_registry.catalog.models import Identity, InputKind, Space, Version
from w2w_registry.catalog.space_rows import space_with_digest
from w2w_registry.commands import command
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadFile, NotFound
from w2w_registry.files import sha256_file
from w2w_registry.hub import adapter_release, bundle
from w2w_registry.hub.addresses import address_of, parse_repo
from w2w_registry.hub.api import Hub, RepoState
from w2w_registry.hub.bundle import Document
from w2w_registry.lora import WRITTEN, LoraFile, lora_files, read_lora
from w2w_registry.records import Kind, OperationKind, canonical_json, check_name, digest_of, now
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door, said_uncompared
from w2w_registry.services.consent.holding import why_held
from w2w_registry.services.consent.restore import Restored, owns, restore
from w2w_registry.services.hub import attesting
from w2w_registry.services.hub.pull_adapters import take_adapter
from w2w_registry.services.hub.pull_checks import check_document, check_weights, kind_of
from w2w_registry.services.hub.pull_strangers import take_strangers
from w2w_registry.services.hub.pulling import Fetched, PullReport, PullRequest, consent_word, know_release
from w2w_registry.services.recording.likeness import Likeness, of_lora, of_theta
from w2w_registry.services.recording.newcomers import Newcomer, ask
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.recording.versions import Activity, File, Input, NewVersion, record_version
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.space.basis import WeightSpace


def pull(registry: Registry, hub: Hub, request: PullRequest, progress: Progress = no_progress) -> PullReport:
    """Fetch a repo and register what is in it.

    Raises:
        NotFound: no such repo, revision or space. UnsafeRepo, BadFile, BadLora, IntegrityError: what is there is
        refused. SpaceMismatch: another base model or other modules. LikenessRefused, ConsentDenied: a subject is in
        the way. StorageError: the files cannot be written.
    """
    with temporary_folder(registry.settings.temporary_dir) as folder:
        fetched = fetch(hub, request.repo, folder, file=request.file, progress=progress)
        if fetched.document is not None:
            return _take_ours(registry, hub, request, fetched, fetched.document)
        if fetched.adapter is not None:
            return take_adapter(registry, hub, request, fetched, fetched.adapter)
        there = {file.path for file in fetched.state.files}
        attesting.check_without_document(registry, folder, fetched.digests, there, address_of(fetched.state.repo_id))
        return take_strangers(registry, request, fetched)


def fetch(hub: Hub, uri: str, folder: Path, *, file: str | None = None, progress: Progress = no_progress) -> Fetched:
    """Fetch and check what makes up the LoRA of a repo, into ``folder``; nothing is registered.

    Raises:
        As :func:`pull`.
    """
    repo_id, revision = parse_repo(uri)
    state = hub.state(repo_id, revision)
    entry = state.file(bundle.DOCUMENT) if file is None else None
    document, adapter = None, None
    if entry is not None:
        data = hub.read(state.repo_id, state.commit, entry)
        document, adapter = adapter_release.decode(
            data, f"{address_of(state.repo_id)}/{bundle.DOCUMENT}", _reader(hub, state)
        )
    ours = document or adapter
    choice = bundle.choose(state, ours, name=file)
    hub.download(state.repo_id, state.commit, choice.files, folder, progress)
    consent = None
    digests = {f.path: sha256_file(folder / f.path) for f in choice.files}
    lora: Path | None = None
    if ours is not None:
        bundle.check_files(ours, digests, address_of(state.repo_id))
        if bundle.CONSENT in digests:
            consent = (folder / bundle.CONSENT).read_bytes()
        if bundle.DIFFUSERS_FILE in ours.files:
            lora = folder / bundle.DIFFUSERS_FILE  # PEFT's form has a file for each part of the pipeline
        elif any(path.endswith(".safetensors") and path != bundle.COORDINATES for path in ours.files):
            lora = folder
    else:
        # A PEFT file keeps its settings beside it; the others say everything themselves.
        first = folder / choice.files[0].path
        lora = first.parent if first.name == bundle.PEFT_FILES[0] else first
    return Fetched(state, document, folder, lora, consent, digests, adapter)


def _reader(hub: Hub, state: RepoState) -> Callable[[str], bytes]:
    def read(path: str) -> bytes:
        file = state.file(path)
        if file is None:
            raise BadFile(path=f"{address_of(state.repo_id)}/{path}", reason="named in its document, but missing")
        return hub.read(state.repo_id, state.commit, file)

    return read


# -- one of ours -------------------------------------------------------------------------------
def _take_ours(registry: Registry, hub: Hub, request: PullRequest, fetched: Fetched, document: Document) -> PullReport:
    where = address_of(fetched.state.repo_id)
    with registry.catalog.read() as session:
        row = space_of(session, document)
        space = load_space(registry.artifacts, row)
    coordinates = check_document(document, row, space, where)
    lora = None if fetched.lora is None else read_lora(fetched.lora)
    for one in _forms(fetched, document):  # each form is what somebody may load
        check_weights(read_lora(one), document, coordinates, space, row.ref, where)
    vouched, remarks = attesting.vouched(registry, fetched.folder, document, fetched.digests, where)
    mine = owns(hub, fetched.state.repo_id)
    restored = restore(registry, fetched.consent, fetched.state.repo_id, believed=vouched or mine)
    restored = replace(restored, warnings=(*restored.warnings, *remarks))
    name = check_name(request.name or document.name)
    kind = kind_of(request, document.kind, where)
    if request.dry_run:
        return _report(registry, fetched, document, "added", name, 0, row.ref, restored, dry=True)
    ours = _Ours(registry, request, fetched, document, name, kind, row, space, coordinates, lora)
    number, shown, status, told = ours.record(hub, restored, mine)
    restored = replace(restored, warnings=(*restored.warnings, *told))
    return _report(registry, fetched, document, status, shown, number, row.ref, restored)


@dataclass(frozen=True, eq=False)
class _Ours:
    """A release of a registry that was checked, to be recorded under a name in a space."""

    registry: Registry
    request: PullRequest
    fetched: Fetched
    document: Document
    name: str
    kind: Kind
    row: Space
    space: WeightSpace
    coordinates: NDArray[np.float32]
    lora: LoraFile | None

    def record(self, hub: Hub, restored: Restored, mine: bool) -> tuple[int, str, str, tuple[str, ...]]:
        """Record the version in one transaction; returns its number, its name, whether it was added, and what is to be
        told. ``mine``: the repo is one of this registry's user."""
        registry, document, row = self.registry, self.document, self.row
        theta = self.space.reconstruct(self.coordinates)
        (answer,) = ask(
            registry,
            [Newcomer(document.base_model, self.fetched.lora, self.space.layout, theta)],
            self.request.pipeline,
        )
        likeness = of_theta(theta, self.space.layout) if self.lora is None else of_lora(self.lora)
        likeness = replace(likeness, prints=answer.prints)
        artifact, file = (None, None) if self.lora is None else _store(registry, self.lora)
        manifest = registry.artifacts.put(canonical_json(document.manifest).encode())
        told: tuple[str, ...] = ()
        with registry.catalog.write(registry.actor) as uow:
            subjects = sorted({*self.request.subjects, *restored.write(uow)})
            decision = gate.require(
                registry, Use.REGISTER, subjects=subjects, kind=self.kind, spaces=[row.id], session=uow.session
            )
            version, status = _known(uow.session, document, row, self.name), "existing"
            if version is None:
                status = "added"
                new = self._new_version(likeness, subjects, artifact, file, manifest)
                activity = self._activity(hub.endpoint)
                door = Door(registry, uow.session)
                word = door.admit(new, activity)
                version = record_version(uow, new, activity, word)
                told = said_uncompared(door, likeness, answer.why)
                if word.held is not None:
                    told = (why_held(f"{self.name}@{version.number}", word.held), *told)
            if mine:
                know_release(uow, hub, self.fetched, version)
            uow.event(
                "version.pull",
                {"version": version.id, "operation": version.operation_id},
                status=status,
                commit=self.fetched.state.commit,
                **gate.evidence(decision),
            )
            return version.number, uow.session.get_one(Identity, version.identity_id).name, status, told

    def _new_version(
        self, likeness: Likeness, subjects: Sequence[str], artifact: str | None, file: File | None, manifest: str
    ) -> NewVersion:
        document = self.document
        return NewVersion(
            name=self.name,
            kind=self.kind,
            space_id=self.row.id,
            model_digest=document.model_digest,
            coordinates=self.coordinates,
            base_model=document.base_model,
            likeness=likeness,
            base_revision=document.base_revision,
            residual=document.residual,
            artifact_digest=artifact,
            manifest_digest=manifest,
            file=file,
            subjects=subjects,
        )

    def _activity(self, endpoint: str) -> Activity:
        document = self.document
        return Activity(
            OperationKind.PULL,
            now(),
            params={"endpoint": endpoint, "document": digest_of(document.manifest), "number": document.number},
            inputs=[self.fetched.origin, Input("space", InputKind.SPACE, digest=self.row.digest, ref=self.row.ref)],
            models={"base": document.base_model},
        )


def _forms(fetched: Fetched, document: Document) -> list[Path]:
    """Every file, or PEFT folder, in which a release holds its LoRA."""
    named = [
        fetched.folder if bundle.PEFT_FILES[0] == form.FILE else fetched.folder / form.FILE
        for form in WRITTEN.values()
        if form.FILE in document.files
    ]
    return named or ([] if fetched.lora is None else [fetched.lora])


def space_of(session: Session, document: Document) -> Space:
    """The very space the coordinates live in.

    Raises:
        NotFound: it is not registered here; says where to get it when the release knows.
    """
    row = space_with_digest(session, document.space_digest)
    if row is None:
        name = f"{document.space} (digest {document.space_digest[:12]})"
        if document.space_repo:
            cure = f"`{command('space import', 'NAME', address_of(document.space_repo))}` gets it"
        else:
            cure = "the release does not say where it is published: ask its publisher for it"
        raise NotFound(what="space", name=name, reason=f"the release lies in it; {cure}")
    return row


def _store(registry: Registry, lora: LoraFile) -> tuple[str, File]:
    """The LoRA in one self-contained file, as ``add`` keeps it."""
    dtype: Any = lora.dtype if lora.dtype in ("fp16", "bf16") else "fp32"
    data = next(iter(lora_files("lora.safetensors", lora, fmt="diffusers", dtype=dtype).values()))
    file = lora.files[0]
    return registry.artifacts.put(data), File(lora.sha256, lora.format, lora.dtype, file.name, file.stat().st_size)


def _known(session: Session, document: Document, row: Space, name: str) -> Version | None:
    """The version that is this already: same model, same point, same name."""
    return version_at(session, name, document.model_digest, row.id, document.coordinates_digest)


def _report(
    registry: Registry,
    fetched: Fetched,
    document: Document,
    status: str,
    name: str,
    number: int,
    space: str,
    restored: Restored,
    *,
    dry: bool = False,
) -> PullReport:
    return PullReport(
        fetched.state.repo_id,
        fetched.state.commit,
        True,
        status,
        None if dry else f"{name}@{number}",
        space,
        document.residual,
        restored.state if dry else consent_word(registry, name, number),
        restored.warnings,
    )


__all__ = ["Fetched", "PullReport", "PullRequest", "fetch", "pull", "space_of"]
