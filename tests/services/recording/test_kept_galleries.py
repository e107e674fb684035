"""Large galleries kept as they are compared: the same answers, whatever changed since; a cache that may be lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.services.beginnings import Beginnings
from tests.services.world import BASE
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog import schema
from w2w_registry.catalog.assets import SERVED
from w2w_registry.catalog.fingerprints import Asked
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import StorageError
from w2w_registry.records import VersionState
from w2w_registry.services.consent import withdraw
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.recording import gallery, kept_galleries
from w2w_registry.services.recording.fingerprints import Prober, keep
from w2w_registry.services.recording.gallery import Gallery, open_answered, open_gallery
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space

PROBER = Prober(None, "ab" * 32, "x2-0.9+0.8-512 photo of sks person")  # type: ignore[arg-type]
RNG = np.random.default_rng(5)
DRAWN = (RNG.normal(size=(90, 512)) * np.linspace(3, 0.1, 512) + 1).astype(np.float32)


@pytest.fixture(autouse=True)
def every_gallery_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "LARGE", 20)
    monkeypatch.setattr(kept_galleries, "LARGE", 20)
    monkeypatch.setattr(kept_galleries, "AT_ONCE", 7)


@pytest.fixture
def drawn(registry: Registry, beginnings: Beginnings, loras: Path) -> Registry:
    """60 identities and what they draw; the 55th to 59th are said to be one person's."""
    beginnings.begin(registry, "drawn", lambda empty: draw(empty, loras))
    return registry


def draw(registry: Registry, loras: Path) -> None:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    add(registry, AddRequest([str(loras / f"p{n:04d}") for n in range(55)]))
    add(registry, AddRequest([str(loras / f"p{n:04d}") for n in range(55, 60)], subjects=["s-1"]))
    _ask(registry, range(60))


def _ask(registry: Registry, people: range, *, other: float = 0.0) -> None:
    with registry.catalog.read() as session:
        ids = [version_for(session, f"p{n:04d}").id for n in people]
    keep(registry, PROBER, ids, DRAWN[list(people)] + np.float32(other))


def _both(registry: Registry, states: tuple[VersionState, ...] = SERVED) -> tuple[Gallery, Gallery]:
    with registry.catalog.read() as session:
        asked = Asked(PROBER.base, PROBER.question, 10_000)
        return open_gallery(registry, session, asked, states), open_answered(session, asked, states).gallery


def _agree(kept: Gallery, fresh: Gallery) -> None:
    order = np.argsort(kept.versions)
    assert kept.versions[order].tolist() == fresh.versions.tolist()
    assert kept.identities[order].tolist() == fresh.identities.tolist()
    assert kept.size == fresh.size
    asked = DRAWN[60:64]
    scores, verdicts = kept.verdicts(asked)
    expected, said = fresh.verdicts(asked)
    np.testing.assert_allclose(scores[:, order], expected, atol=1e-4)
    for one, other in zip(verdicts, said, strict=True):
        np.testing.assert_allclose(one.false_alarm[order], other.false_alarm, atol=1e-3)


def test_it_says_what_learning_anew_says_after_every_change(
    drawn: Registry, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_galleries, "GROWN", 1.0)  # learned again at every change of size
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: remove(drawn, "p0003", perform=True),
        lambda: add(drawn, AddRequest([str(loras / "p0070")])),
        lambda: _ask(drawn, range(70, 71)),
        lambda: add(drawn, AddRequest([str(loras / "p0071")], subjects=["s-1"])),
        lambda: _ask(drawn, range(71, 72)),
        lambda: withdraw.withdraw(drawn, "s-1"),
    ]
    for change in changes:
        change()
        kept, fresh = _both(drawn)
        _agree_on_who(kept, fresh)


def _agree_on_who(kept: Gallery, fresh: Gallery) -> None:
    order = np.argsort(kept.versions)
    assert kept.versions[order].tolist() == fresh.versions.tolist()
    assert kept.identities[order].tolist() == fresh.identities.tolist()
    assert kept.size == fresh.size
    nearest = [
        gallery.versions[row.argmax()]
        for gallery in (kept, fresh)
        for row in gallery.verdicts(DRAWN[10:20] * np.float32(1.1))[0]
    ]
    assert nearest[:10] == nearest[10:]


def test_the_first_time_and_the_next_say_the_same(drawn: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first, fresh = _both(drawn)
    _agree(first, fresh)
    with monkeypatch.context() as patched:
        patched.setattr(stored, "matrix_of", lambda *_: pytest.fail("what is kept was read again"))
        again, _ = _both(drawn)
    _agree(again, fresh)
    assert isinstance(again.points, np.memmap)
    assert again.points.dtype == np.float32


def test_only_what_came_since_is_read(drawn: Registry, monkeypatch: pytest.MonkeyPatch, loras: Path) -> None:
    monkeypatch.setattr(kept_galleries, "GROWN", 2.0)
    _both(drawn)
    read: list[int] = []
    real = stored.matrix_of
    monkeypatch.setattr(stored, "matrix_of", lambda session, ids: read.extend(ids.tolist()) or real(session, ids))
    _ask(drawn, range(2), other=0.5)  # taken again
    kept, fresh = _both(drawn)
    assert len(read) == 2
    _agree_on_who(kept, fresh)
    np.testing.assert_allclose(
        kept.points[np.argsort(kept.versions)], kept.model.project(_matrix(drawn)), rtol=1e-4, atol=1e-4
    )


def _matrix(registry: Registry) -> np.ndarray:
    with registry.catalog.read() as session:
        return stored.answers(session, PROBER.base, PROBER.question).matrix


def test_the_blocked_are_there_for_who_asks_for_them(drawn: Registry) -> None:
    _both(drawn)
    withdraw.withdraw(drawn, "s-1")
    kept, fresh = _both(drawn)
    assert len(kept.versions) == len(fresh.versions) == 55
    kept, fresh = _both(drawn, (*SERVED, VersionState.BLOCKED))
    assert len(kept.versions) == len(fresh.versions) == 60


@pytest.mark.parametrize("spoil", ["cut", "text", "gone", "other"])
def test_a_broken_one_is_made_again(drawn: Registry, spoil: str) -> None:
    _both(drawn)
    folder = drawn.settings.galleries_dir
    (points,) = folder.glob("*.npy")
    (names,) = folder.glob("*.npz")
    if spoil == "cut":
        points.write_bytes(points.read_bytes()[:-9])
    elif spoil == "text":
        names.write_text("no arrays")
    elif spoil == "gone":
        points.unlink()
    else:
        np.save(points, np.zeros((3, 2), np.float32))
    _agree(*_both(drawn))
    assert len(list(folder.glob("*.np*"))) == 2


def test_a_home_that_cannot_be_written_is_searched_all_the_same(
    drawn: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError(path="galleries", reason="No space left on device")

    monkeypatch.setattr(kept_galleries, "write_atomic", full)
    _agree(*_both(drawn))


def test_what_is_not_committed_is_not_kept(drawn: Registry) -> None:
    with drawn.catalog.write("tester") as uow:
        open_gallery(drawn, uow.session, Asked(PROBER.base, PROBER.question, 10_000))
    assert not drawn.settings.galleries_dir.exists()


def test_what_another_database_left_in_the_home_is_not_believed(drawn: Registry, tmp_path: Path, loras: Path) -> None:
    """Its fingerprints have the same ids, and are other people's."""
    _both(drawn)
    url = f"sqlite:///{tmp_path}/other.db"
    settings = replace(drawn.settings, database_url=url)
    schema.upgrade(url)
    other = replace(drawn, settings=settings, catalog=Catalog(url, event_hash=event_hash))
    fit_space(other, "tiny", [str(loras)], base_model=BASE)
    add(other, AddRequest([str(loras / f"p{n:04d}") for n in range(60)]))
    with other.catalog.read() as session:
        ids = [version_for(session, f"p{n:04d}").id for n in range(60)]
    keep(other, PROBER, ids, DRAWN[60:0:-1])
    for registry in (other, drawn):
        kept, fresh = _both(registry)
        _agree_on_who(kept, fresh)
        order = np.argsort(kept.versions)
        np.testing.assert_allclose(kept.points[order], kept.model.project(_matrix(registry)), rtol=1e-4, atol=1e-4)
    other.catalog.close()


def test_a_search_that_was_under_way_while_somebody_was_erased_leaves_nothing(drawn: Registry) -> None:
    asked = Asked(PROBER.base, PROBER.question, 10_000)
    eraser = Catalog(drawn.settings.database_url, event_hash=event_hash, busy_timeout=1.0)  # SQLite waits for readers
    with drawn.catalog.read() as session:
        assert stored.listed(session, asked.base, asked.question).ids.size == 60  # its view is from before
        withdraw.withdraw(replace(drawn, catalog=eraser), "s-1", erase=True)
        assert len(open_gallery(drawn, session, asked).versions) == 60
    eraser.close()
    assert not list(drawn.settings.galleries_dir.glob("*.np*"))


def test_erasing_leaves_nothing_of_it(drawn: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their answers nor what was learned from them, and whoever asks next does not wait for the learning."""
    before, _ = _both(drawn)
    withdraw.withdraw(drawn, "s-1", erase=True)
    with monkeypatch.context() as patched:
        patched.setattr(kept_galleries, "learn_unspoilt", lambda *_, **__: pytest.fail("learned in a request"))
        kept, fresh = _both(drawn)
    assert len(kept.versions) == 55
    _agree(kept, fresh)
    assert not np.allclose(kept.model.centre, before.model.centre)
    assert len(list(drawn.settings.galleries_dir.glob("*.np*"))) == 2


def test_between_erasing_and_learning_anew_the_old_model_answers_and_nothing_is_kept(
    drawn: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_galleries, "GROWN", 2.0)
    _both(drawn)
    seen: list[Gallery] = []

    def look_first(registry: Registry, *_: object) -> None:
        files = _files(registry)
        with monkeypatch.context() as patched:
            patched.setattr(kept_galleries, "learn_unspoilt", lambda *_, **__: pytest.fail("learned in a request"))
            seen.append(_both(registry)[0])
        assert _files(registry) == files

    real = kept_galleries._write
    monkeypatch.setattr(kept_galleries, "_write", lambda *given: (look_first(drawn), real(*given)))
    withdraw.withdraw(drawn, "s-1", erase=True)
    monkeypatch.undo()
    assert [len(one.versions) for one in seen] == [55]


def _files(registry: Registry) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in registry.settings.galleries_dir.glob("*.np*")}


def test_a_gallery_that_became_small_is_not_kept_once_somebody_was_erased(
    drawn: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    _both(drawn)
    monkeypatch.setattr(kept_galleries, "LARGE", 56)
    withdraw.withdraw(drawn, "s-1", erase=True)
    assert not list(drawn.settings.galleries_dir.glob("*.np*"))


def test_what_was_outgrown_is_learned_later_where_somebody_takes_such_work(
    drawn: Registry, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _both(drawn)
    add(drawn, AddRequest([str(loras / f"p{n:04d}") for n in range(60, 70)]))
    _ask(drawn, range(60, 70))
    put_off: dict[object, Callable[[], object]] = {}
    patient = replace(drawn, later=lambda what, _seq, work: put_off.update({what: work}))
    with monkeypatch.context() as patched:
        patched.setattr(kept_galleries, "learn_unspoilt", lambda *_, **__: pytest.fail("learned in a request"))
        kept, _ = _both(patient)
        assert len(kept.versions) == 70
        _both(patient)
    (work,) = put_off.values()
    work()
    put_off.clear()
    kept, fresh = _both(patient)
    _agree_on_who(kept, fresh)
    np.testing.assert_allclose(kept.model.centre, fresh.model.centre)
    assert put_off == {}


def test_a_gallery_is_prepared_before_anybody_searches_it(drawn: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery.keep_ready(drawn)
    monkeypatch.setattr(kept_galleries, "learn_unspoilt", lambda *_, **__: pytest.fail("learned in a request"))
    assert len(_both(drawn)[0].versions) == 60
