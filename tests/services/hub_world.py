"""A registry with a small weight space, some identities and consents, beside a running local Hub."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from tests.hub.local_hub import LocalHub
from tests.hub.local_hub.store import User
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.models import Identity, Operation, Release, Space, Version
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent import lifecycle
from w2w_registry.consent.records import Scope
from w2w_registry.hub.client import HubClient
from w2w_registry.lora import LoraFile, lora_files, model_digest, read_lora, write_lora
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.consent.door import Door
from w2w_registry.services.consent.rows import insert_record, load_records, move_record
from w2w_registry.services.recording.likeness import of_theta
from w2w_registry.services.recording.spaces import load_space, store_space
from w2w_registry.services.recording.subjects import ensure_subject
from w2w_registry.services.recording.versions import Activity, File, NewVersion, record_version
from w2w_registry.services.registry import Registry
from w2w_registry.settings import Settings
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.layout import Layout, LayoutTensor

# The attention projections of the tiny UNet in tests/hub/tiny_unet.py: module → (in, out).
PARTS = ("down_blocks.0.attentions.0.transformer_blocks.0", "up_blocks.1.attentions.0.transformer_blocks.0")
WIDTH, TEXT = 8, 12
BASE = "acme/tiny-base"
ALPHA = 27.0


def tiny_layout(rank: int = 1) -> Layout:
    """to_q and to_v of attn1 and attn2."""
    tensors = []
    for part in PARTS:
        for attention, inner in (("attn1", WIDTH), ("attn2", TEXT)):
            for name, width in (("to_q", WIDTH), ("to_v", inner)):
                module = f"{part}.{attention}.{name}"
                tensors.append(LayoutTensor(module, "A", (rank, width)))
                tensors.append(LayoutTensor(module, "B", (WIDTH, rank)))
    return Layout(tuple(tensors), ALPHA)


def make_space(k: int = 6, layout: Layout | None = None, seed: int = 0) -> WeightSpace:
    shape = layout or tiny_layout()
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(shape.dim, k)))
    return WeightSpace(
        base_model=BASE,
        base_revision=None,
        layout=shape,
        mean=rng.normal(scale=0.1, size=shape.dim).astype(np.float32),
        std=(0.05 + rng.random(shape.dim) * 0.05).astype(np.float32),
        components=np.ascontiguousarray(basis, np.float32),
        component_std=np.linspace(3, 1, k).astype(np.float32),
        explained_variance_ratio=(np.linspace(3, 1, k) / 20).astype(np.float32),
        fit_set_digest="ab" * 32,
        fit_size=40,
        software={"numpy": np.__version__},
    )


def add_space(registry: Registry, space: WeightSpace, name: str = "faces") -> int:
    """Record ``space`` as ``name@1``; returns its id."""
    layout = space.layout
    with registry.catalog.write(registry.actor) as uow:
        made = uow.now()
        operation = Operation(
            id=f"op-{name}", kind="fit", agent=uow.actor, started_at=made, ended_at=made, code_version="test"
        )
        row = Space(
            name=name,
            number=1,
            digest=space.digest,
            base_model=space.base_model,
            base_revision=space.base_revision,
            layout_digest=layout.digest,
            layout=layout.to_json(),
            dim=layout.dim,
            rank=layout.rank,
            alpha=layout.alpha,
            components=space.k,
            artifact_digest=store_space(registry.artifacts, space),
            fit_set_digest=space.fit_set_digest,
            fit_size=space.fit_size,
            explained_variance=[float(v) for v in space.explained_variance_ratio],
            operation=operation,
            created=made,
        )
        uow.add(row)
        uow.event("space.add", {"space": row.id})
        return row.id


@dataclass
class World:
    """A registry, its space, and a client with the owner's token on the local Hub."""

    registry: Registry
    hub: LocalHub
    owner: User
    space_id: int
    folder: Path

    @property
    def client(self) -> HubClient:
        return HubClient(self.hub.endpoint, token=self.owner.token, sleep=lambda seconds: None)

    @property
    def space(self) -> WeightSpace:
        with self.registry.catalog.read() as session:
            return load_space(self.registry.artifacts, session.get_one(Space, self.space_id))

    # -- filling -------------------------------------------------------------------------------
    def consent(self, subject: str, **scope: Any) -> str:
        """A live consent of ``subject``; publication and derivatives unless said otherwise."""
        wanted = Scope(**{"purposes": ("research",), "derivatives": True, "publication": True} | scope)
        at = now()
        record = lifecycle.grant(lifecycle.request(f"c-{subject}", subject, wanted, at, "steward"), at, "steward")
        with self.registry.catalog.write(self.registry.actor) as uow:
            ensure_subject(uow, subject)
            insert_record(uow, record)
            uow.event("consent.grant", {"record": record.record_id})
        return record.record_id

    def withdraw(self, subject: str) -> None:
        with self.registry.catalog.write(self.registry.actor) as uow:
            for record in load_records(uow.session, [subject])[subject]:
                move_record(uow, lifecycle.withdraw(record, now(), "steward"))
            uow.event("consent.withdraw", {"subject": "x"})

    def lora(self, seed: int, *, noise: float = 0.0) -> LoraFile:
        """A LoRA near the space: ``noise`` is what the space cannot say."""
        space, rng = self.space, np.random.default_rng(seed)
        theta = space.reconstruct(rng.normal(size=space.k) * space.component_std)
        theta = theta + noise * space.std * rng.normal(size=space.dim).astype(np.float32)
        out = self.folder / f"lora-{seed}-{noise}"
        write_lora(out, space.layout.unflatten(theta.astype(np.float32)), ALPHA, fmt="peft", base_model=BASE)
        return read_lora(out)

    def add(
        self,
        name: str,
        *,
        seed: int = 1,
        kind: Kind = Kind.PERSON,
        subjects: Sequence[str] = (),
        stored: bool = True,
        noise: float = 0.3,
    ) -> int:
        """One version: imported with its file (``stored``), or coordinates alone. Returns its id."""
        space = self.space
        lora = self.lora(seed, noise=noise if stored else 0.0)
        theta = lora.theta()
        coordinates = space.project(theta)
        artifact = None
        file = None
        if stored:
            files = lora_files("lora.safetensors", lora, fmt="diffusers")
            artifact = self.registry.artifacts.put(next(iter(files.values())))
            file = File(lora.sha256, "peft", "fp32", "adapter_model.safetensors", 1)
        else:
            theta = space.reconstruct(coordinates)
        with self.registry.catalog.write(self.registry.actor) as uow:
            new = NewVersion(
                name=name,
                kind=kind,
                space_id=self.space_id,
                model_digest=model_digest(theta, space.layout),
                coordinates=coordinates,
                base_model=BASE,
                likeness=of_theta(theta, space.layout),
                residual=float(space.residual(theta, coordinates)),
                artifact_digest=artifact,
                file=file,
                subjects=subjects,
            )
            activity = Activity(OperationKind.IMPORT if stored else OperationKind.SAMPLE, now(), params={"seed": seed})
            version = record_version(uow, new, activity, Door(self.registry, uow.session).admit(new))
            return version.id

    # -- looking -------------------------------------------------------------------------------
    def releases(self) -> list[Release]:
        with self.registry.catalog.read() as session:
            return list(session.scalars(select(Release).order_by(Release.id)))

    def version(self, name: str, number: int = 1) -> Version:
        with self.registry.catalog.read() as session:
            query = select(Version).join(Identity).where(Identity.name == name, Version.number == number)
            found = session.scalars(query).one()
            session.refresh(found, ["identity", "operation"])
            return found


ALONE = {"second_person": False}
"""The policy of a registry of one person."""


def open_world(folder: Path, template: Path, hub: LocalHub, owner: User, name: str = "home") -> World:
    """A fresh registry under ``folder`` with one space, against ``hub``."""
    home = folder / name
    home.mkdir()
    shutil.copy(template, home / "catalog.db")
    settings = Settings(home, f"sqlite:///{home}/catalog.db", "tester", str(home / "artifacts"), ALONE)
    catalog = Catalog(settings.database_url, event_hash=event_hash)
    registry = Registry(settings, catalog, ArtifactStore(settings.artifacts_url))
    return World(registry, hub, owner, add_space(registry, make_space()), folder)


def with_policy(world: World, **policy: Any) -> World:
    settings = replace(world.registry.settings, policy={**ALONE, **policy})
    return replace(world, registry=replace(world.registry, settings=settings))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


SOON = timedelta(seconds=1)
