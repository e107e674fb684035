"""``gc``: what nothing refers to goes, what anything refers to stays, and what is new is left alone."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.small import Small, digest
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.schema import upgrade
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import UsageError
from w2w_registry.services.consent import withdraw
from w2w_registry.services.recording.unused import GRACE, gc


def age(small: Small, name: str, seconds: float = 2 * GRACE) -> None:
    path = small.registry.artifacts.path(name)
    assert path is not None
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def small(catalog: Catalog, tmp_path: Path) -> Small:
    made = Small(catalog, tmp_path)
    form = tmp_path / "form"
    form.write_bytes(b"signed")
    made.grant("s1", evidence=form, keep_evidence=True)
    made.add("a", "s1", content=b"the model")
    for name in list(made.registry.artifacts.digests()):
        age(made, name)
    return made


def test_what_is_referred_to_stays(small: Small) -> None:
    before = set(small.registry.artifacts.digests())
    found = gc(small.registry, perform=True)
    assert (found.unused, found.performed) == ((), True)
    assert set(small.registry.artifacts.digests()) == before
    assert {digest("signed"), digest("the model"), digest("space arrays")} <= before


def test_trainings_that_were_given_up_go_and_others_stay(small: Small) -> None:
    folder = small.registry.settings.training_dir
    folder.mkdir(parents=True, exist_ok=True)
    for name, days in (("old", 31), ("new", 29)):
        (folder / f"{name}.safetensors").write_bytes(b"state")
        os.utime(folder / f"{name}.safetensors", (time.time() - 86400 * days,) * 2)
    for stranger in ("notes", "odd.safetensors"):  # nothing a training left
        (folder / stranger).mkdir()
        os.utime(folder / stranger, (0, 0))
    promised = gc(small.registry, perform=False)
    assert (promised.trainings, promised.unfinished) == (("old.safetensors",), 1)
    assert len(list(folder.iterdir())) == 4
    assert gc(small.registry, perform=True).trainings == promised.trainings
    assert {file.name for file in folder.iterdir()} == {"new.safetensors", "notes", "odd.safetensors"}


def test_orphans_go_and_the_dry_run_keeps_its_word(small: Small) -> None:
    orphan = small.registry.artifacts.put(b"left by a crash")
    assert gc(small.registry, perform=True).young == 1
    age(small, orphan)
    events = small.events()
    promised = gc(small.registry, perform=False)
    assert small.registry.artifacts.exists(orphan)
    assert small.events() == events
    assert (promised.unused, promised.size, promised.performed) == ((orphan,), len(b"left by a crash"), False)
    assert gc(small.registry, perform=True).unused == promised.unused
    assert not small.registry.artifacts.exists(orphan)
    assert small.events()[-1] == "artifact.gc"


def test_putting_a_file_again_makes_it_new(small: Small) -> None:
    """A command that stores what an old orphan holds has not recorded it yet: the orphan must not be swept."""
    orphan = small.registry.artifacts.put(b"left by a crash")
    age(small, orphan)
    small.registry.artifacts.put(b"left by a crash")
    found = gc(small.registry, perform=True)
    assert (found.unused, found.young) == ((), 1)


def test_after_an_erasure_nothing_is_left_to_sweep(small: Small) -> None:
    withdraw.withdraw(small.registry, "s1", erase=True)
    assert gc(small.registry, perform=False, grace=0).unused == ()


def test_a_store_that_others_may_use_is_swept_only_when_asked(small: Small, tmp_path: Path) -> None:
    registry = replace(small.registry, settings=replace(small.registry.settings, artifacts_url=str(tmp_path / "nas")))
    with pytest.raises(UsageError):
        gc(registry, perform=True)
    assert gc(registry, perform=False).unused == ()
    assert gc(registry, perform=True, alone=True).performed


@pytest.mark.parametrize("room", [False, True])
def test_a_full_disk_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool) -> None:
    """No room for the lock or the event: the largest goes first; what there is room for then is recorded."""
    resource = pytest.importorskip("resource")
    url = f"sqlite:///{tmp_path}/catalog.db"
    upgrade(url)
    small = Small(Catalog(url, event_hash=event_hash), tmp_path)
    orphans = {small.registry.artifacts.put(b"left" * size) for size in (1, 1000)}
    for name in orphans:
        age(small, name)
    events = small.events()
    small.registry.catalog.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    remove, removed = small.registry.artifacts.remove, list[str]()

    def removing(digest: str) -> bool:
        if room:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        removed.append(digest)
        return bool(remove(digest))

    monkeypatch.setattr(small.registry.artifacts, "remove", removing)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        found = gc(small.registry, perform=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert removed[0] == digest("left" * 1000)
    assert (set(found.unused), found.size, found.performed, found.recorded) == (orphans, 4004, True, room)
    assert small.events() == [*events, *(["artifact.gc"] if room else [])]
