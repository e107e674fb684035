"""A small registry for service tests: a space of eight components, versions with coordinates and stored files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from w2w_registry.artifacts import ArtifactStore
from w2w_registry.catalog.models import InputKind, Release, Space, SpaceMember, Version
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.records import Scope, Use
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.consent import gate, grants
from w2w_registry.services.consent.door import Door
from w2w_registry.services.recording.likeness import UNKNOWN
from w2w_registry.services.recording.versions import (
    Activity,
    Held,
    Input,
    NewVersion,
    record_operation,
    record_version,
)
from w2w_registry.services.registry import Registry
from w2w_registry.settings import Settings

K = 8
ANY = Scope(purposes=("any",), derivatives=True, publication=True)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def coordinates(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(K).astype(np.float32)


class Small:
    """A registry and short ways to fill it."""

    def __init__(self, catalog: Catalog, folder: Path, policy: Mapping[str, Any] | None = None) -> None:
        settings = Settings(
            home=folder / "home",
            database_url=catalog.name,
            actor="curator",
            artifacts_url=str(folder / "home" / "artifacts"),
            policy={"second_person": False, **(policy or {})},
        )
        self.registry = Registry(settings, catalog, ArtifactStore(settings.artifacts_url))
        with catalog.write("curator") as uow:
            operation = record_operation(uow, Activity("fit", now()))
            space = uow.add(
                Space(
                    name="faces",
                    number=1,
                    digest=digest("space"),
                    base_model="base",
                    layout_digest=digest("layout"),
                    layout={"modules": []},
                    dim=64,
                    rank=1,
                    alpha=1.0,
                    components=K,
                    artifact_digest=self.registry.artifacts.put(b"space arrays"),
                    software={},
                    operation_id=operation.id,
                    created=uow.now(),
                )
            )
            uow.event("space.add", {"space": space.id})
            self.space_id = space.id
        self._count = 0
        self.url = settings.database_url

    def add(
        self,
        name: str,
        *subjects: str,
        kind: Kind = Kind.PERSON,
        made: OperationKind = OperationKind.IMPORT,
        parents: Sequence[int] = (),
        params: Mapping[str, Any] | None = None,
        point: np.ndarray | None = None,
        content: bytes | None = None,
        labels: Mapping[str, float | str] | None = None,
        photo: str | None = None,
        held: Held | None = None,
    ) -> int:
        """Record a version as a service would, without asking the gate; returns its id. ``held``: what the door says of
        it."""
        self._count += 1
        artifact = self.registry.artifacts.put(content or f"lora {self._count}".encode())
        inputs = [Input("source", InputKind.VERSION, version_id=p, ref=f"v{p}") for p in parents]
        if photo is not None:
            inputs.append(Input("photo", InputKind.PHOTO, digest=digest(photo), ref=f"{photo}.png"))
        with self.registry.catalog.write("curator") as uow:
            new = NewVersion(
                name=name,
                kind=kind,
                space_id=self.space_id,
                model_digest=digest(f"model {self._count}"),
                coordinates=coordinates(self._count) if point is None else point.astype(np.float32),
                base_model="base",
                likeness=UNKNOWN,
                artifact_digest=artifact,
                subjects=subjects,
                labels=labels or {},
            )
            activity = Activity(made, now(), params or {}, inputs)
            admission = Door(self.registry, uow.session).admit(new)
            version = record_version(uow, new, activity, admission if held is None else replace(admission, held=held))
            return version.id

    def derive(self, name: str, *parents: int, how: Use = Use.EDIT, purpose: str | None = None) -> int:
        """Edit or mix as a service would: the gate first, again inside the transaction."""
        gate.require(self.registry, how, versions=parents, purpose=purpose)
        return self.add(name, made=OperationKind(how.value), parents=parents, params={"strength": 1.0})

    def grant(self, subject: str, scope: Scope = ANY, **more: Any) -> dict[str, Any]:
        return grants.grant(self.registry, subject, scope, **more)

    def release(self, version_id: int, repo: str) -> int:
        """Record a release as ``push`` would, the gate asked first."""
        gate.require(self.registry, Use.PUBLISH, versions=[version_id])
        with self.registry.catalog.write("curator") as uow:
            row = uow.add(
                Release(
                    version_id=version_id,
                    endpoint="https://hub.example",
                    repo_id=repo,
                    commit_id=digest(repo)[:40],
                    revision="main",
                    visibility="public",
                    format="peft",
                    created=uow.now(),
                )
            )
            uow.event("release.add", {"release": row.id, "version": version_id})
            return row.id

    def member(self, version_id: int) -> None:
        """Say that the space was fitted with this version's model."""
        with self.registry.catalog.write("curator") as uow:
            version = uow.session.get_one(Version, version_id)
            self._count += 1
            uow.add(
                SpaceMember(
                    space_id=self.space_id,
                    position=self._count,
                    model_digest=version.model_digest,
                    name=f"photo shoot {version_id}",
                )
            )
            uow.event("space.member", {"space": self.space_id})

    def state(self, version_id: int) -> str:
        with self.registry.catalog.read() as session:
            return str(session.get_one(Version, version_id).state.value)

    def allowed(self, use: Use, version_id: int, **more: Any) -> bool:
        return gate.ask(self.registry, use, versions=[version_id], **more).allowed

    def events(self) -> list[str]:
        """Actions of the log, in order."""
        from w2w_registry.catalog.events import events

        with self.registry.catalog.read() as session:
            return [event.action for event in events(session)]
