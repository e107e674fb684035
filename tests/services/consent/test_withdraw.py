"""Withdrawal: what goes, what stays, crashes in the middle, doing it twice, and coming back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.services.small import Small, coordinates, digest
from w2w_registry.catalog.models import (
    Coordinates,
    GuardReference,
    Identity,
    Label,
    Release,
    SourceFile,
    Space,
    SpaceMember,
    Takedown,
    Version,
    Withdrawal,
)
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.vectors import pack
from w2w_registry.consent.records import Scope, Use
from w2w_registry.consent.withdrawal import Step, Tombstone
from w2w_registry.errors import LikenessRefused, NotFound, StorageError
from w2w_registry.records import digest_of
from w2w_registry.services.consent import subjects, withdraw
from w2w_registry.services.consent.door import Door
from w2w_registry.services.recording.likeness import UNKNOWN


@pytest.fixture
def small(catalog: Catalog, tmp_path: Path) -> Small:
    return Small(catalog, tmp_path)


class Scene:
    """s1 with an import, an edit of it, a mix with s2, a release, a place in the fit set; s2 and a bystander."""

    def __init__(self, small: Small) -> None:
        self.small = small
        for subject in ("s1", "s2"):
            small.grant(subject)
        self.a = small.add("a", "s1", labels={"beard": 1.0}, photo="selfie")
        self.b = small.add("b", "s2")
        self.edit = small.derive("a", self.a)
        self.mix = small.derive("m", self.edit, self.b, how=Use.MIX)
        self.bystander = small.add("c")
        self.release = small.release(self.edit, "acme/a")
        small.member(self.a)

    @property
    def gone(self) -> tuple[int, int, int]:
        return self.a, self.edit, self.mix

    def states(self) -> list[str]:
        return [self.small.state(v) for v in (*self.gone, self.b, self.bystander)]


def test_a_plan_changes_nothing(small: Small) -> None:
    scene = Scene(small)
    before = small.events()
    plan = withdraw.plan_withdrawal(small.registry, "s1", erase=True)
    assert small.events() == before
    assert [(v.ref, v.derived) for v in plan.versions] == [("a@1", False), ("a@2", True), ("m@1", True)]
    assert plan.steps == (Step.BLOCK, Step.ERASE, Step.PURGE, Step.RECEIPT)
    assert (plan.spaces, [r.repo for r in plan.releases], len(plan.purged_artifacts)) == (("faces@1",), ["acme/a"], 3)
    assert scene.states() == ["active"] * 5
    with pytest.raises(NotFound):
        withdraw.plan_withdrawal(small.registry, "nobody")


def test_withdrawal_blocks_everything_downstream_and_nothing_else(small: Small) -> None:
    scene = Scene(small)
    done = withdraw.withdraw(small.registry, "s1")
    assert scene.states() == ["blocked", "blocked", "blocked", "active", "active"]
    for version in scene.gone:
        for use in (Use.SEARCH, Use.GENERATE, Use.EXPORT, Use.PUBLISH):
            assert not small.allowed(use, version)
    assert small.allowed(Use.GENERATE, scene.b)
    assert done["receipt"]["releases_queued"] == [{"repo": "acme/a", "commit": digest("acme/a")[:40]}]
    with small.registry.catalog.read() as session:
        [queued] = session.scalars(select(Takedown))
        assert (queued.release_id, queued.wanted, queued.withdrawal_id) == (scene.release, ["hide"], done["withdrawal"])
        assert session.get_one(Release, scene.release).state.value == "takedown-queued"
        # nothing is erased unless it was asked for
        assert session.get(Coordinates, (small.space_id, scene.a)) is not None
    assert subjects.show_subject(small.registry, "s1")["consent"] == "withdrawn"
    assert "space refit faces@1 --without s1" in done["markdown"]
    assert "The commands are for whoever runs this registry" in done["markdown"]  # the person depicted cannot type them


def test_twice_is_once_and_erasing_later_goes_on(small: Small) -> None:
    scene = Scene(small)
    first = withdraw.withdraw(small.registry, "s1")
    before = small.events()
    again = withdraw.withdraw(small.registry, "s1")
    assert (first["already"], again["already"]) == (False, True)
    assert again["tombstone"] == first["tombstone"]
    assert small.events() == before
    later = withdraw.withdraw(small.registry, "s1", erase=True)
    assert not later["already"]
    assert scene.states()[:3] == ["erased"] * 3
    with small.registry.catalog.read() as session:
        [queued] = session.scalars(select(Takedown))
        assert queued.wanted == ["hide", "erase", "delete"]
    before = small.events()
    assert withdraw.withdraw(small.registry, "s1", erase=True)["already"]
    assert withdraw.withdraw(small.registry, "s1")["already"]
    assert small.events() == before


def test_a_wish_for_protection_may_come_later_but_not_after_erasure(small: Small) -> None:
    Scene(small)
    withdraw.withdraw(small.registry, "s1", protect=False)
    assert not withdraw.withdraw(small.registry, "s1", protect=True)["already"]
    assert withdraw.withdraw(small.registry, "s1", protect=True)["already"]
    assert subjects.show_subject(small.registry, "s1")["do_not_recreate"] == 1
    withdraw.withdraw(small.registry, "s1", erase=True)
    assert withdraw.withdraw(small.registry, "s1", protect=True)["already"]


def test_a_withdrawal_still_running_elsewhere_is_joined(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(small)
    monkeypatch.setattr(withdraw, "resume", crash_now)
    with pytest.raises(Crash):
        withdraw.withdraw(small.registry, "s1")
    monkeypatch.undo()
    monkeypatch.setattr(withdraw, "unfinished", lambda *_: [])
    joined = withdraw.withdraw(small.registry, "s1")
    assert (joined["already"], joined["receipt"]["subject"]) == (True, "s1")
    assert scene.states()[:3] == ["blocked"] * 3
    before = small.events()
    withdraw._issue(small.registry, joined["withdrawal"], withdraw.plan_withdrawal(small.registry, "s1"))
    assert small.events() == before


def test_erasure_leaves_ids_and_digests_only(small: Small) -> None:
    scene = Scene(small)
    index = small.registry.settings.index_dir / "0123456789abcdef-cafe-flat"
    (index / "gen-1").mkdir(parents=True)
    (index / "gen-1" / "vectors").write_bytes(b"vectors")
    (index / "CURRENT").write_bytes(b"gen-1")
    files = list(small.registry.artifacts.digests())
    done = withdraw.withdraw(small.registry, "s1", erase=True)
    with small.registry.catalog.read() as session:
        for model in (Coordinates, Label, SourceFile):
            assert set(session.scalars(select(model.version_id))) & set(scene.gone) == set()
        names = dict(row.tuple() for row in session.execute(select(Version.id, Identity.name).join(Identity)))
        assert names == {
            scene.a: f"erased-{session.get_one(Version, scene.a).identity_id}",
            scene.edit: f"erased-{session.get_one(Version, scene.a).identity_id}",
            scene.mix: f"erased-{session.get_one(Version, scene.mix).identity_id}",
            scene.b: "b",
            scene.bystander: "c",
        }
        version = session.get_one(Version, scene.edit)
        assert (version.artifact_digest, version.preview_digest, version.operation.params) == (None, None, {})
        assert [m.name for m in session.scalars(select(SpaceMember))] == ["erased"]
        text = str(session.get_one(Withdrawal, done["withdrawal"]).plan)
        assert "a@1" not in text
    assert len(files) - len(list(small.registry.artifacts.digests())) == 3
    assert not (index / "CURRENT").exists()
    assert not (index / "gen-1").exists()
    stone = Tombstone(**done["tombstone"])
    assert stone.subject_digest == digest_of({"salt": stone.salt, "subject": "s1"})
    assert (stone.versions, stone.files, stone.erased) == (3, 3, True)
    assert subjects.show_subject(small.registry, "s1")["state"] == "erased"


def test_erased_bytes_are_not_left_in_the_sqlite_file(sqlite_catalog: Catalog, tmp_path: Path) -> None:
    small = Small(sqlite_catalog, tmp_path)
    point = np.arange(1, 9, dtype=np.float32) * 1.234567
    small.grant("s1")
    small.add("unmistakable-name", "s1", point=point, labels={"unmistakable-label": 0.123456789})
    sqlite_catalog.close()
    database = tmp_path / "catalog.db"

    def holds(what: bytes) -> bool:
        return any(what in p.read_bytes() for p in tmp_path.glob("catalog.db*"))

    assert database.exists()
    assert holds(pack(point)[0])
    withdraw.withdraw(small.registry, "s1", erase=True)
    for what in (pack(point)[0], b"unmistakable-name", b"unmistakable-label"):
        assert not holds(what)


def test_files_others_hold_stay(small: Small) -> None:
    for subject in ("s1", "s2"):
        small.grant(subject)
    small.add("a", "s1", content=b"same file")
    small.add("b", "s2", content=b"same file")
    done = withdraw.withdraw(small.registry, "s1", erase=True)
    assert small.registry.artifacts.get(digest("same file")) == b"same file"
    assert any("also held" in r["what"] for r in done["receipt"]["remains"])


def test_kept_evidence_goes_with_erasure(small: Small, tmp_path: Path) -> None:
    form = tmp_path / "form"
    form.write_bytes(b"evidence")
    small.grant("s1", evidence=form, keep_evidence=True)
    withdraw.withdraw(small.registry, "s1", erase=True)
    assert not small.registry.artifacts.exists(digest("evidence"))


class Crash(BaseException):
    """As sudden as a killed process: nothing catches it."""


STEPS: list[tuple[str, str]] = [
    ("_block", "after"),
    ("_erase", "before"),
    ("_erase", "after"),
    ("_purge", "before"),
    ("_purge", "after"),
    ("_issue", "before"),
]


@pytest.mark.parametrize(("step", "when"), STEPS)
def test_a_crash_between_steps_resumes_to_the_same_end(
    small: Small, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    scene = Scene(small)
    real: Callable[..., Any] = getattr(withdraw, step)

    def crash(*args: Any) -> Any:
        if when == "after":
            result = real(*args)
            if step != "_block":
                raise Crash
            return result
        raise Crash

    monkeypatch.setattr(withdraw, step, crash)
    if step == "_block":
        monkeypatch.setattr(withdraw, "resume", crash_now)
    with pytest.raises(Crash):
        withdraw.withdraw(small.registry, "s1", erase=True)
    assert "active" not in scene.states()[:3]
    monkeypatch.undo()
    assert len(withdraw.unfinished(small.registry)) == 1
    withdraw.withdraw(small.registry, "s1", erase=True)
    assert withdraw.unfinished(small.registry) == []
    assert_same_end(scene)


def crash_now(*_: Any) -> Any:
    raise Crash


def assert_same_end(scene: Scene) -> None:
    small = scene.small
    assert scene.states() == ["erased"] * 3 + ["active"] * 2
    assert subjects.show_subject(small.registry, "s1")["state"] == "erased"
    assert len(subjects.show_subject(small.registry, "s1")["withdrawals"]) == 1
    with small.registry.catalog.read() as session:
        assert len(list(session.scalars(select(Takedown)))) == 1
        assert set(session.scalars(select(Coordinates.version_id))) == {scene.b, scene.bystander}
        kept = {v.artifact_digest for v in session.scalars(select(Version)) if v.artifact_digest}
        space = session.get_one(Space, small.space_id).artifact_digest
    assert set(small.registry.artifacts.digests()) == kept | {space}


@pytest.mark.parametrize("nth", range(6))
def test_a_crash_inside_a_transaction_leaves_it_undone(small: Small, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """The nth event of the withdrawal fails: what its transaction did is not there, and resuming completes it."""
    from w2w_registry.catalog.session import UnitOfWork

    scene = Scene(small)
    real, count = UnitOfWork.event, 0

    def event(self: UnitOfWork, *args: Any, **more: Any) -> int:
        nonlocal count
        count += 1
        if count == nth + 1:
            raise Crash
        return real(self, *args, **more)

    monkeypatch.setattr(UnitOfWork, "event", event)
    crashed = False
    try:
        withdraw.withdraw(small.registry, "s1", erase=True)
    except Crash:
        crashed = True
    monkeypatch.undo()
    assert crashed == (count > nth)
    if nth < 2:
        assert scene.states() == ["active"] * 5
    withdraw.withdraw(small.registry, "s1", erase=True)
    assert_same_end(scene)


def test_a_file_that_cannot_be_deleted_is_tried_again(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    from w2w_registry.artifacts import ArtifactStore

    scene = Scene(small)

    def fail(self: ArtifactStore, digest: str) -> bool:
        raise StorageError(path="x", reason="read-only")

    monkeypatch.setattr(ArtifactStore, "remove", fail)
    with pytest.raises(StorageError):
        withdraw.withdraw(small.registry, "s1", erase=True)
    monkeypatch.undo()
    withdraw.withdraw(small.registry, "s1", erase=True)
    assert_same_end(scene)


def test_a_new_consent_brings_back_what_nobody_else_holds_back(small: Small) -> None:
    scene = Scene(small)
    withdraw.withdraw(small.registry, "s1", protect=True)
    withdraw.withdraw(small.registry, "s2")
    assert scene.states()[:4] == ["blocked"] * 4
    back = small.grant("s1")
    assert back["restored"] == ["a@1", "a@2"]
    assert scene.states()[:4] == ["active", "active", "blocked", "blocked"]
    with small.registry.catalog.read() as session:
        assert {row.subject_id for row in session.scalars(select(GuardReference))} == {"s2"}
    assert small.grant("s2")["restored"] == ["b@1", "m@1"]
    # and it can be withdrawn once more
    assert not withdraw.withdraw(small.registry, "s1")["already"]
    assert scene.states()[:3] == ["blocked"] * 3


def test_erased_models_do_not_come_back(small: Small) -> None:
    scene = Scene(small)
    withdraw.withdraw(small.registry, "s1", erase=True)
    assert small.grant("s1")["restored"] == []
    assert scene.states()[:3] == ["erased"] * 3


def held(small: Small, session: Session, point: np.ndarray) -> None:
    Door(small.registry, session).hold(UNKNOWN, {small.space_id: point}, path="new.safetensors")


def test_the_guard_knows_a_protected_subject_again(small: Small) -> None:
    rng = np.random.default_rng(5)
    mine = coordinates(1000)
    for i in range(40):
        small.add(f"x{i}")
    small.grant("s1")
    small.add("a", "s1", point=mine)
    withdraw.withdraw(small.registry, "s1", erase=True, protect=True)
    with small.registry.catalog.read() as session:
        [kept] = session.scalars(select(GuardReference))
        assert pack(mine)[0] not in kept.reference
        with pytest.raises(LikenessRefused) as caught:
            held(small, session, mine + rng.normal(0, 0.02, 8).astype(np.float32))
        assert caught.value.subject == "s1"
        held(small, session, -mine)


def test_no_service_can_record_a_protected_subject(small: Small) -> None:
    mine = coordinates(1000)
    small.grant("s1")
    small.add("a", "s1", point=mine, content=b"x")
    withdraw.withdraw(small.registry, "s1", erase=True, protect=True)
    before = small.events()
    with pytest.raises(LikenessRefused):
        small.add("b", point=mine * 2)
    assert small.events() == before


def test_the_very_model_that_was_erased_does_not_come_back(small: Small) -> None:
    small.grant("s1")
    gone = small.add("a", "s1")
    with small.registry.catalog.read() as session:
        model = session.get_one(Version, gone).model_digest
    withdraw.withdraw(small.registry, "s1", erase=True)
    with small.registry.catalog.read() as session:
        with pytest.raises(LikenessRefused):
            Door(small.registry, session).hold(UNKNOWN, {}, path="x", model_digest=model)
        Door(small.registry, session).hold(UNKNOWN, {}, path="x", model_digest=digest("another"))
    small.grant("s1")
    with small.registry.catalog.read() as session:
        Door(small.registry, session).hold(UNKNOWN, {}, path="x", model_digest=model)


def test_who_asks_for_it_is_forgotten(small: Small) -> None:
    scene = Scene(small)
    withdraw.withdraw(small.registry, "s1", erase=True, protect=False)
    with small.registry.catalog.read() as session:
        assert list(session.scalars(select(GuardReference))) == []
        held(small, session, coordinates(1))
    assert scene.states()[0] == "erased"


def test_a_subject_without_models_can_withdraw_a_request(small: Small) -> None:
    from w2w_registry.services.consent import grants, showing

    grants.request(small.registry, "s9", Scope(purposes=("research",)))
    done = withdraw.withdraw(small.registry, "s9")
    assert done["receipt"]["versions"] == []
    assert showing.show(small.registry, "s9")["consent"] == "withdrawn"
    assert withdraw.withdraw(small.registry, "s9")["already"]


def test_many_are_told_what_each_is_told_alone(small: Small) -> None:
    """A subject who withdrew, one who is protected and one whose consent ran out, against copies and strangers."""
    for i in range(40):
        small.add(f"x{i}")
    for i, subject in enumerate(("s1", "s2", "s3")):
        small.grant(subject)
        small.add(f"a{i}", subject, point=coordinates(1000 + i))
    withdraw.withdraw(small.registry, "s1")
    withdraw.withdraw(small.registry, "s2", erase=True, protect=True)
    rng = np.random.default_rng(3)
    points = [coordinates(1000 + i % 3) + rng.normal(0, 0.1, 8).astype(np.float32) for i in range(9)]
    points += [coordinates(2000 + i) for i in range(9)] + [np.zeros(8, np.float32)]
    with small.registry.catalog.read() as session:
        door = Door(small.registry, session)
        alone = [door.meets(UNKNOWN, {small.space_id: point}) for point in points]
        many = door.meets_all([UNKNOWN] * len(points), [{small.space_id: point} for point in points])
    assert [met and (met.subject, met.refused) for met in many] == [met and (met.subject, met.refused) for met in alone]
    assert np.allclose([met.similarity for met in many[:-1]], [met.similarity for met in alone[:-1]], atol=1e-6)
    assert {met.subject for met in many[:-1] if met.refused} == {"s1", "s2"}
    assert many[-1] is None
