"""The door: whoever refused does not come back, nor go out, under any file, name, kind, subject or space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from tests.services.beginnings import Beginnings
from tests.services.identities.test_same_model import disguises
from tests.services.world import BASE, World
from w2w_registry.catalog.models import GuardReference
from w2w_registry.consent.records import Scope
from w2w_registry.errors import ConsentDenied, HeldBack, LikenessRefused, SettingError
from w2w_registry.lora import write_lora
from w2w_registry.services.consent import grants, resolve, withdraw
from w2w_registry.services.consent.door_key import key_path
from w2w_registry.services.consent.protect import protect_subject
from w2w_registry.services.identities import manage
from w2w_registry.services.identities.ingest import AddRequest, Item, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis.export import export

EVERYTHING = Scope(purposes=("any",), derivatives=True, publication=True)
ALICE = 5


@pytest.fixture
def home(registry: Registry, beginnings: Beginnings, loras: Path) -> Registry:
    """Alice, who agreed, among people who did; and a second space that never saw her."""
    beginnings.begin(registry, "door", lambda empty: fill(empty, loras))
    return registry


def fill(registry: Registry, loras: Path) -> None:
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    fit_space(registry, "others", [str(loras / f"p{i:04d}") for i in range(10, 80)], base_model=BASE)
    grants.grant(registry, "alice", EVERYTHING)
    assert put(registry, [loras / f"p{ALICE:04d}"], space="faces", name="alice", subjects=["alice"]) == ["added"]
    put(registry, [loras / f"p{i:04d}" for i in range(40, 80)], space="faces")


def put(registry: Registry, paths: list[Path], **options: object) -> list[str]:
    return [item.status for item in items(registry, paths, **options)]


def items(registry: Registry, paths: list[Path], **options: object) -> tuple[Item, ...]:
    return add(registry, AddRequest([str(p) for p in paths], **options)).items  # type: ignore[arg-type]


def refused(registry: Registry, paths: list[Path], **options: object) -> bool:
    found = items(registry, paths, **options)
    return all(isinstance(item.error, LikenessRefused) and item.error.subject == "alice" for item in found)


@pytest.mark.parametrize("erase", [False, True])
def test_nothing_brings_back_whoever_withdrew(home: Registry, world: World, tmp_path: Path, erase: bool) -> None:
    withdraw.withdraw(home, "alice", erase=erase)
    if not erase:
        manage.remove(home, "alice", perform=True)
    files = disguises(world, tmp_path / "copies", ALICE)
    for kind in ("style", "person"):
        assert refused(home, files, kind=kind, space="faces", prefix=f"{kind}/")
    assert refused(home, files, kind="product", space="others", subjects=["bob"])


@pytest.mark.parametrize("share", [0.8, 0.9, 0.999])
def test_nor_does_a_mixture_or_noise(home: Registry, world: World, tmp_path: Path, share: float) -> None:
    withdraw.withdraw(home, "alice", erase=True)
    rng = np.random.default_rng(0)
    mixed = share * world.theta(ALICE) + (1 - share) * world.theta(30)
    noisy = world.theta(ALICE) + (1 - share) * world.theta(ALICE).std() * rng.normal(size=world.layout.dim)
    for name, theta in (("mixed", mixed), ("noisy", noisy)):
        tensors = world.layout.unflatten(theta.astype(np.float32))
        write_lora(tmp_path / name, tensors, world.layout.alpha, base_model=BASE)
    assert refused(home, [tmp_path / "mixed", tmp_path / "noisy"], kind="style")


def test_who_is_registered_under_another_name_does_not_leave(home: Registry, world: World, tmp_path: Path) -> None:
    """A copy that came in before, as somebody else's style: nothing of the withdrawn person goes out."""
    noisy = world.theta(ALICE) * np.float32(1.02)
    write_lora(tmp_path / "copy", world.layout.unflatten(noisy), world.layout.alpha, base_model=BASE)
    assert put(home, [tmp_path / "copy"], kind="style", name="brush", space="faces") == ["added"]
    # It is held for that; whoever lets it pass is deceived, and the door is not.
    resolve.resolve(home, "brush", distinct=True, reason="only a style")
    export(home, "brush", str(tmp_path / "before"))
    withdraw.withdraw(home, "alice")
    with pytest.raises(ConsentDenied) as caught:
        export(home, "brush", str(tmp_path / "after"))
    assert caught.value.subjects == ("alice",)
    assert "likeness that was refused" in caught.value.reasons[0]


def test_strangers_pass(home: Registry, loras: Path, retrained: Path) -> None:
    withdraw.withdraw(home, "alice", erase=True)
    others = [retrained / f"p{i:04d}" for i in range(30) if i != ALICE]
    assert put(home, others, prefix="again/") == ["added"] * len(others)


def test_who_asks_to_be_forgotten_is(home: Registry, world: World, tmp_path: Path) -> None:
    withdraw.withdraw(home, "alice", erase=True, protect=False)
    with home.catalog.read() as session:
        assert list(session.scalars(select(GuardReference))) == []
    scaled = [p for p in disguises(world, tmp_path, ALICE) if p.name == "padded-fp32.safetensors"]
    assert put(home, scaled, name="again") == ["added"]


def test_a_new_consent_opens_the_door_again(home: Registry, world: World, tmp_path: Path) -> None:
    withdraw.withdraw(home, "alice", erase=True)
    grants.grant(home, "alice", EVERYTHING)
    padded = [p for p in disguises(world, tmp_path, ALICE) if p.name == "padded-fp32.safetensors"]
    assert put(home, padded, name="again", subjects=["alice"]) == ["added"]


def test_protected_without_ever_being_registered(home: Registry, world: World, loras: Path, tmp_path: Path) -> None:
    protect_subject(home, "carol", str(loras / "p0007"), space="faces")
    found = items(home, disguises(world, tmp_path, 7), kind="style", space="others")
    assert all(isinstance(item.error, LikenessRefused) and item.error.subject == "carol" for item in found)


def test_the_catalog_alone_says_nothing_about_looks(home: Registry, loras: Path) -> None:
    """Two references of one likeness share no bits but by chance; without its key the door stays shut."""
    protect_subject(home, "carol", str(loras / "p0007"), space="faces")
    protect_subject(home, "dora", str(loras / "p0007"), space="faces")
    with home.catalog.read() as session:
        rows = list(session.scalars(select(GuardReference).where(GuardReference.space_id.is_not(None))))
    first, second = (np.unpackbits(np.frombuffer(row.reference, np.uint8)) for row in rows)
    assert abs((first == second).mean() - 0.5) < 0.06
    key_path(home).unlink()
    (item,) = items(home, [loras / "p0008"])
    assert isinstance(item.error, SettingError)


@pytest.mark.parametrize("told", [{"kind": "style"}, {}, {"subjects": ["bob"]}])
def test_who_agrees_again_is_known_though_nothing_of_them_is_left(
    home: Registry, world: World, tmp_path: Path, told: dict[str, object]
) -> None:
    """Whatever it calls itself, a model of theirs is held unless it names them; and they may withdraw once more."""
    withdraw.withdraw(home, "alice", erase=True)
    grants.grant(home, "alice", EVERYTHING)
    padded = [p for p in disguises(world, tmp_path, ALICE) if p.name == "padded-fp32.safetensors"]
    (found,) = items(home, padded, name="unnamed", **told)
    assert found.status == "added"
    assert "held: it may draw alice, who" in " ".join(found.warnings)
    with pytest.raises(HeldBack, match="unnamed"):
        export(home, "unnamed", str(tmp_path / "out"))
    manage.remove(home, "unnamed", perform=True)
    withdraw.withdraw(home, "alice")
    assert refused(home, padded, kind="style", name="later")
    grants.grant(home, "alice", EVERYTHING)
    withdraw.withdraw(home, "alice", protect=False)
    with home.catalog.read() as session:
        assert list(session.scalars(select(GuardReference))) == []
