"""The campaign's registry: three hundred people, some of whom refuse in every way there is, run by two people."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from examples.miniworld.unpack import BASE_MODEL, Loras
from tests.hub.local_hub import LocalHub
from tests.services.consent.insider.eyes import PIPELINE, Eyes
from tests.services.consent.insider.play import FOREIGN, RETRAINED, Insider
from w2w_registry import records
from w2w_registry.consent.records import Scope
from w2w_registry.diffusion.adapters import Adapter
from w2w_registry.diffusion.invert import Inverted
from w2w_registry.errors import BadLora
from w2w_registry.hub.client import HubClient
from w2w_registry.lora import lora_files
from w2w_registry.records import digest_of
from w2w_registry.services.consent import grants, withdraw
from w2w_registry.services.consent.protect import protect_subject
from w2w_registry.services.identities import translated
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.recording import newcomers
from w2w_registry.services.recording.fingerprints import Prober
from w2w_registry.services.recording.policies import adopt
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis import invert, training
from w2w_registry.settings import load_settings

EVERYTHING = Scope(purposes=("any",), derivatives=True, publication=True)
REFUSED = {3: "withdrew", 5: "erased", 9: "removed", 14: "protected", 18: "expired", 21: "style"}
"""Who refuses when the campaign begins: row -> how."""
LATE = {30: False, 33: True}
"""Who withdraws in its middle, when there are models made of them: row -> whether everything is erased."""
STRANGERS = range(1000, 1024)
PHOTO = "photo.png"


@dataclass(frozen=True)
class Scale:
    """How much there is of everything."""

    people: int = 300

    @property
    def at_hand(self) -> tuple[int, ...]:
        """Everybody whose own LoRA the insider has: those who refuse first."""
        refusing = (*REFUSED, *LATE)
        return (*refusing, *(row for row in (*range(self.people), *STRANGERS) if row not in refusing))


def subject(row: int) -> str:
    return f"s{row}"


def write(folder: Path, loras: Loras, theta: np.ndarray[Any, Any]) -> Path:
    for path, content in lora_files(
        folder, loras.layout.unflatten(theta), loras.layout.alpha, fmt="peft", base_model=BASE_MODEL
    ).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def build(folder: Path, loras: Loras, scale: Scale, *, alone: bool = False) -> Path:
    """A registry home in which everybody of ``REFUSED`` has refused; ``alone``: the policy of one person."""
    for row in (*range(scale.people), *STRANGERS):
        write(folder / "loras" / f"p{row:04d}", loras, loras.theta[row])
    for row in (*REFUSED, *LATE):
        write(folder / "again" / f"p{row:04d}", loras, loras.retrained[row])
    Image.new("RGB", (32, 32), (200, 160, 120)).save(folder / PHOTO)
    home = folder / "registry"
    init_registry(load_settings(str(home), actor="steward"))
    uses = ["register", "search", "train", "invert", "edit", "mix", "sample", "generate", "export", "publish"]
    rules = f"unknown = {json.dumps(uses)}\n" + ("second_person = false\n" if alone else "")
    pipelines = f'[pipelines]\n"{BASE_MODEL}" = {json.dumps(PIPELINE)}\n'
    (home / "registry.toml").write_text(f"[policy]\n{rules}{pipelines}")
    with open_registry(load_settings(str(home), actor="steward")) as registry:
        _people(registry, folder / "loras", scale)
    return home


def _people(registry: Registry, loras: Path, scale: Scale) -> None:
    def path(row: int) -> str:
        return str(loras / f"p{row:04d}")

    adopt(registry)
    fit_space(registry, "faces", [path(row) for row in range(scale.people)], base_model=BASE_MODEL)
    expiry = datetime.now(UTC) + timedelta(hours=1)
    for row, how in [*REFUSED.items(), *((row, "late") for row in LATE)]:
        if how == "protected":
            continue
        scope = replace(EVERYTHING, expires_at=expiry) if how == "expired" else EVERYTHING
        grants.grant(registry, subject(row), scope)
        kind = "style" if how == "style" else "person"
        (item,) = add(registry, AddRequest([path(row)], subjects=[subject(row)], kind=kind)).items
        assert item.status == "added", item
    rest = [path(row) for row in range(scale.people) if row not in {**REFUSED, **LATE}]
    assert all(item.status == "added" for item in add(registry, AddRequest(rest)).items)
    for row, how in REFUSED.items():
        if how == "protected":
            protect_subject(registry, subject(row), path(row))
        elif how != "expired":
            withdraw.withdraw(registry, subject(row), erase=how == "erased")
        if how == "removed":
            remove(registry, f"p{row:04d}", perform=True)


@contextmanager
def playing(folder: Path, work: Path, eyes: Eyes, foreign: Sequence[tuple[Path, str]], seed: int) -> Iterator[Insider]:
    """An insider at a copy of the registry that ``build`` made in ``folder``."""
    home, loras = work / "registry", eyes.loras
    shutil.copytree(folder / "registry", home)
    settings = load_settings(str(home), actor="insider")
    kept = folder / "loras"
    refused = [(kept / f"p{row:04d}", f"p{row:04d}") for row in (*REFUSED, *LATE)]
    again = [(folder / "again" / f"p{row:04d}", f"{RETRAINED} p{row:04d}") for row in (*REFUSED, *LATE)]
    strangers = [(kept / f"p{row:04d}", f"p{row:04d}") for row in STRANGERS]
    with ExitStack() as stack:
        hub = stack.enter_context(LocalHub())
        owner = hub.user("insider")
        client = HubClient(hub.endpoint, token=owner.token, sleep=lambda seconds: None)
        registry = stack.enter_context(open_registry(settings))
        insider = Insider(
            registry,
            hub,
            owner,
            client,
            eyes,
            work,
            [*refused, *refused, *again, *foreign, *strangers],
            {row for row in REFUSED if row < 224},
            [subject(row) for row in (*REFUSED, *LATE)],
            np.random.default_rng(seed),
            whence={f"p{row:04d}": f"p{row:04d}" for row in LATE},
            clock=timedelta(hours=2),  # the consent that runs out has
        )
        for patch in _patches(insider, loras):
            stack.enter_context(patch)
        with (
            registry.catalog.read()
        ):  # somebody looks in once it has: a time that no registry saw has not passed for it
            pass
        yield insider


def late(insider: Insider) -> None:
    """Those of ``LATE`` withdraw."""
    steward = replace(insider.registry, settings=replace(insider.registry.settings, actor="steward"))
    for row, erase in LATE.items():
        withdraw.withdraw(steward, subject(row), erase=erase)
        insider.refusing.add(row)


# -- what is made cheap, and what is at hand ---------------------------------------------------------
def _patches(insider: Insider, loras: Loras) -> Iterator[Any]:
    """Trainings and inversions that find what is planted, fingerprints taken once, a clock, a base model that can be
    missing, and the Hub without its own upload service."""
    import huggingface_hub.constants as constants

    at_hand = newcomers.at_hand

    def trained(model: Any, layout: Any, theta0: Any, photos: Sequence[Any], *rest: Any, **options: Any) -> Any:
        assert insider.planted is not None
        theta = insider.planted[0]
        if theta.shape != (layout.dim,):
            raise BadLora(path="planted", reason="another layout")
        return np.stack([theta] * len(photos)), np.zeros(len(photos), np.float32)

    def inverted(model: Any, space: Any, photos: Sequence[Any], *rest: Any, **options: Any) -> list[Inverted]:
        assert insider.planted is not None
        point = np.asarray(space.project(space.in_gauge(insider.planted[0][None])[0]), np.float32)
        return [Inverted(point, 0.1, 1.0, 0.5, 1.0, 1, True, (), 0.0)]

    class Moments(type):  # other modules hold plain datetimes, which records must still know as such
        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, datetime)

    class Shifted(datetime, metaclass=Moments):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + insider.clock

    yield mock.patch.object(newcomers, "at_hand", lambda *a: None if insider.blind else at_hand(*a))
    yield mock.patch.object(records, "datetime", Shifted)
    yield mock.patch.object(training, "solve", trained)
    yield mock.patch.object(invert, "solve", inverted)
    yield mock.patch.object(translated, "open_prober", side_effect=lambda *a, **k: newcomers.opened(PIPELINE))
    yield mock.patch.object(constants, "HF_HUB_DISABLE_XET", True)
    yield mock.patch.object(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


@contextmanager
def remembered() -> Iterator[None]:
    """Fingerprints are taken once of every model."""
    prints: dict[str, Any] = {}
    taken: Callable[..., Any] = Prober.of_adapters

    def of_adapters(self: Prober, adapters: Sequence[Adapter], *rest: Any) -> Any:
        keys = [digest_of([self.question, one.layout.digest, one.theta.tobytes().hex()]) for one in adapters]  # type: ignore[union-attr]
        new = {key: one for key, one in zip(keys, adapters, strict=True) if key not in prints}
        if new:
            prints.update(zip(new, taken(self, list(new.values()), *rest), strict=True))
        return np.stack([prints[key] for key in keys])

    with mock.patch.object(Prober, "of_adapters", of_adapters):
        yield


def foreign_files(folder: Path, kinds: Sequence[str]) -> list[tuple[Path, str]]:
    """LoRAs of other ranks, starts and modules of everybody who refuses, trained once and kept in ``folder``."""
    from examples.miniworld.train_foreign import KINDS, Trainer, kind_layout

    rows, found = [*REFUSED, *LATE], []
    trainer: Trainer | None = None
    for kind in kinds:
        paths = [folder / kind / f"p{row:04d}.safetensors" for row in rows]
        if not all(path.exists() for path in paths):
            trainer = trainer or Trainer()
            thetas = trainer.batch(KINDS[kind], rows)["theta"].numpy()
            layout = kind_layout(trainer.base.unet, KINDS[kind])
            for path, theta in zip(paths, thetas, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                tensors = layout.unflatten(theta)
                files = lora_files(path, tensors, layout.alpha, fmt="diffusers", base_model=BASE_MODEL)
                for name, content in files.items():
                    name.write_bytes(content)
        assert all(load_file(path) for path in paths)
        found += [(path, f"{FOREIGN} p{row:04d} ({kind})") for path, row in zip(paths, rows, strict=True)]
    return found
