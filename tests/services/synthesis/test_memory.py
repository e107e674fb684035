"""What memory holds of versions that are recorded together: a few at a time, however many there are."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.services.world import BASE
from w2w_registry.catalog.models import Identity, Operation
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.staging import NewRow
from w2w_registry.errors import StorageError
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording import searched
from w2w_registry.services.recording.likeness import Likeness
from w2w_registry.services.recording.versions import Activity, Admission, NewVersion, Recorded, Recording
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis import new_versions
from w2w_registry.services.synthesis.edit import sample
from w2w_registry.services.synthesis.new_versions import Draft
from w2w_registry.space.sketch import Sketch

FEW = 50  # recorded by the same statements
HELD = (Draft, Activity, NewVersion, Likeness, Sketch, Admission, Recording, NewRow)


class Seen:
    """Records as ``record_versions`` does, and looks whenever it has: at what is alive or, where memory is traced, at
    how much of it there is."""

    def __init__(self, fails_at: int | None = None) -> None:
        self._fails_at, self._record = fails_at, new_versions.record_versions
        self.alive: Counter[type] = Counter()
        self.calls = self.traced = 0

    def __call__(self, uow: UnitOfWork, recordings: Sequence[Recording]) -> list[Recorded]:
        made = self._record(uow, recordings)
        self.calls += 1
        if self.calls == self._fails_at:
            raise StorageError(path="catalog.db", reason="the disk is full")
        if tracemalloc.is_tracing():
            gc.collect()
            self.traced = tracemalloc.get_traced_memory()[0]
        else:
            self.alive |= Counter(type(one) for one in gc.get_objects() if isinstance(one, HELD))
        return made


@pytest.fixture
def filled(registry: Registry, loras: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Eighty people; what is recorded next is recorded fifty at a time."""
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras)]))
    monkeypatch.setattr(searched, "PART", FEW)
    monkeypatch.setattr(new_versions, "_TOGETHER", FEW)
    gc.collect()
    gc.freeze()  # what is there before is neither walked nor counted: it takes longer than all the rest
    yield registry
    gc.unfreeze()


def drawn(registry: Registry, count: int, name: str, seed: int, patch: pytest.MonkeyPatch) -> Seen:
    """What was seen while so many were recorded."""
    with patch.context() as patched:
        seen = Seen()
        patched.setattr(new_versions, "record_versions", seen)
        assert len(sample(registry, count, name=name, seed=seed, distribution="independent").samples) == count
    assert seen.calls == -(-count // FEW)
    return seen


def test_as_much_is_held_of_many_as_of_few(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = drawn(filled, 150, "few", 1, monkeypatch), drawn(filled, 450, "many", 2, monkeypatch)
    for kind in HELD:
        assert many.alive[kind] <= few.alive[kind] + new_versions._PREPARED + FEW, kind.__name__
    assert many.alive[NewVersion] >= FEW  # it is looked at while they are there


def test_a_version_more_takes_its_point_and_what_is_told_of_it(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(filled, 100, "warm", 1, monkeypatch)
    tracemalloc.start()
    try:
        few, many = drawn(filled, 200, "few", 2, monkeypatch), drawn(filled, 700, "many", 3, monkeypatch)
    finally:
        tracemalloc.stop()
    # A point of this space has a few components, a name, reference and operation some 500 bytes; it was 3.5 kB.
    assert (many.traced - few.traced) / 500 < 1600


def test_what_is_worked_out_inside_is_undone_with_the_rest(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def there() -> list[int | None]:
        with filled.catalog.read() as session:
            return [session.scalar(select(func.count()).select_from(model)) for model in (Identity, Operation)]

    before = there()
    monkeypatch.setattr(new_versions, "record_versions", Seen(fails_at=3))
    with pytest.raises(StorageError):
        sample(filled, 200, name="lost", distribution="independent")
    assert there() == before
