"""A registry whose real services run fast: a tiny base model opened once, a small space, a direction, a local Hub."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from tests.diffusion import tiny
from tests.hub.local_hub import LocalHub
from tests.services import studio
from tests.services.hub_world import add_space, make_space
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.models import Identity, Space, Version
from w2w_registry.catalog.session import Catalog
from w2w_registry.diffusion import pipeline
from w2w_registry.hub.client import HubClient
from w2w_registry.hub.plan import Access
from w2w_registry.lora import write_lora
from w2w_registry.records import Kind, OperationKind, now
from w2w_registry.services.consent.door import Door
from w2w_registry.services.consent.door_key import ensure_key
from w2w_registry.services.hub.release import PushReport, PushRequest, push
from w2w_registry.services.hub.release_files import Options
from w2w_registry.services.identities import ingest
from w2w_registry.services.recording.likeness import of_theta
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.recording.versions import Activity, NewVersion, record_version
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis import directions, edit, export, generate, invert, train
from w2w_registry.services.synthesis.engine import Engine
from w2w_registry.settings import Settings

K = 12
PRODUCTS = 24


def open_models_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base models stay open between calls: loading one takes longer than everything a test does with it."""
    monkeypatch.setattr(pipeline, "load_model", cache(pipeline.load_model))


def registry_at(url: str, home: Path) -> Registry:
    settings = Settings(home, url, "curator", str(home / "artifacts"), {"second_person": False})
    return Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))


def furnish(url: str, home: Path, base: Path) -> None:
    """A space of the tiny base model's layout, products on it, and a direction fitted on their labels."""
    registry = registry_at(url, home)
    space = make_space(K, tiny.layout(pipeline.load_model(base, device="cpu").unet))
    space_id = add_space(registry, space)
    rng = np.random.default_rng(1)
    points = (rng.normal(size=(PRODUCTS, K)) * space.component_std).astype(np.float32)
    with registry.catalog.write("curator") as uow:
        for number, point in enumerate(points):
            made = NewVersion(
                name=f"product-{number:02d}",
                kind=Kind.PRODUCT,
                space_id=space_id,
                model_digest=f"{number:064x}",
                coordinates=point,
                base_model=space.base_model,
                likeness=of_theta(space.reconstruct(point), space.layout),
                labels={"shine": float(point[0] + 0.1 * rng.normal())},
            )
            record_version(uow, made, Activity(OperationKind.IMPORT, now()), Door(registry, uow.session).admit(made))
    directions.fit(registry, "shine", "shine")
    ensure_key(registry)  # the door's scores depend on its key, and the same history has to end the same way
    registry.catalog.close()


@dataclass
class Workshop:
    """Short ways to call every service that makes, uses or gives away a likeness."""

    registry: Registry
    folder: Path
    base: Path
    hub: LocalHub
    token: str
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = Engine(pipeline=str(self.base), device="cpu", dtype="float32")

    @property
    def client(self) -> HubClient:
        return HubClient(self.hub.endpoint, token=self.token, sleep=lambda seconds: None)

    # -- making ------------------------------------------------------------------------------------
    def lora(self, seed: int) -> Path:
        """A LoRA folder: a point of the space by its seed, and a little noise of its own."""
        where = self.folder / f"lora-{seed}"
        if not where.exists():
            with self.registry.catalog.read() as session:
                space = load_space(self.registry.artifacts, session.get_one(Space, 1))
            rng = np.random.default_rng(seed)
            theta = space.reconstruct((rng.normal(size=space.k) * space.component_std).astype(np.float32))
            theta = theta + 0.01 * space.std * rng.normal(size=space.dim).astype(np.float32)
            write_lora(where, space.layout.unflatten(theta), space.layout.alpha, base_model=space.base_model)
        return where

    def add(self, name: str, seed: int, kind: Kind, *subjects: str) -> str:
        """Raises what refused it, as the command line would print it."""
        request = ingest.AddRequest([str(self.lora(seed))], name=name, kind=str(kind), subjects=subjects)
        (item,) = ingest.add(self.registry, request).items
        if item.error is not None:
            raise item.error
        assert item.status == "added", item
        return f"{item.identity}@{item.version}"

    def photo(self, seed: int) -> str:
        return str(studio.photo(self.folder / "photos", f"photo-{seed}", seed))

    def train(self, name: str, seed: int, purpose: str, *subjects: str) -> str:
        request = train.TrainRequest(
            [self.photo(seed)], name=name, steps=2, samples=1, seed=seed, subjects=subjects, purpose=purpose,
            engine=self.engine,
        )  # fmt: skip
        return str(train.train(self.registry, request)["identities"][0]["ref"])

    def invert(self, name: str, seed: int, purpose: str, *subjects: str) -> str:
        request = invert.InvertRequest(
            [self.photo(seed)], name=name, steps=2, samples=1, seed=seed, subjects=subjects, purpose=purpose,
            engine=self.engine,
        )  # fmt: skip
        return str(invert.invert(self.registry, request)[0]["ref"])

    def edit(self, name: str, source: str, purpose: str) -> str:
        return str(edit.edit(self.registry, source, {"shine": 0.5}, name=name, purpose=purpose)["ref"])

    def mix(self, name: str, sources: list[str], purpose: str) -> str:
        return str(edit.mix(self.registry, sources, (0.5, 0.5), name=name, purpose=purpose)["ref"])

    def sample(self, name: str, seed: int) -> str:
        return str(edit.sample(self.registry, 1, name=name, seed=seed)["samples"][0]["ref"])

    # -- using and giving away ---------------------------------------------------------------------
    def generate(self, source: str, out: Path, purpose: str) -> None:
        request = generate.GenerateRequest(source, str(out), seeds=(1,), steps=2, purpose=purpose, engine=self.engine)
        generate.generate(self.registry, request)

    def export(self, source: str, out: Path, purpose: str) -> None:
        export.export(self.registry, source, str(out), purpose=purpose)

    def push(self, source: str, repo: str, purpose: str) -> PushReport:
        request = PushRequest(source, repo, Access.PUBLIC, Options(formats=("peft",), purpose=purpose))
        return push(self.registry, self.client, request)

    # -- looking -----------------------------------------------------------------------------------
    def id_of(self, ref: str) -> int:
        name, _, number = ref.rpartition("@")
        with self.registry.catalog.read() as session:
            query = select(Version.id).join(Identity).where(Identity.name == name, Version.number == int(number))
            return session.scalars(query).one()

    def states(self) -> dict[int, str]:
        with self.registry.catalog.read() as session:
            return {i: state.value for i, state in session.execute(select(Version.id, Version.state))}

    def visible(self, repo: str) -> bool:
        """Whether strangers see LoRAs there, for the asking at the most."""
        found: Any = self.hub.repo(repo)
        if found is None or found.visibility.value == "private":
            return False
        return any(path.endswith(".safetensors") for path in self.hub.files(repo))


def copy_home(template: Path, folder: Path) -> Path:
    shutil.copytree(template, folder / "home", ignore=shutil.ignore_patterns("*.db"))
    return folder / "home"
