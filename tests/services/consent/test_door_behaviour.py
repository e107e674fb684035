"""The door by what adapters draw: a second training of somebody who refused, or a foreign one, does not come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select

from examples.miniworld.unpack import BASE_MODEL, DATA, Loras, load_loras
from w2w_registry.catalog.models import Fingerprint, GuardReference
from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Scope
from w2w_registry.consent.second_look import Why
from w2w_registry.errors import ConsentDenied, HeldBack, LikenessRefused, NotCompared, SecondPersonNeeded
from w2w_registry.lora import lora_files
from w2w_registry.services.consent import behaviour, grants, late_look, namesakes, resolve, withdraw
from w2w_registry.services.consent.door import Door
from w2w_registry.services.consent.late_look import look_again
from w2w_registry.services.consent.places import Places
from w2w_registry.services.consent.protect import protect_subject
from w2w_registry.services.identities import foreseeing, intake, translated
from w2w_registry.services.identities.browsing import browse
from w2w_registry.services.identities.ingest import AddRequest, Item, add
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.recording import newcomers
from w2w_registry.services.recording.fingerprints import take
from w2w_registry.services.recording.likeness import Print
from w2w_registry.services.recording.pipelines import at_hand
from w2w_registry.services.recording.space_files import write_space
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry, init_registry, no_progress, open_registry
from w2w_registry.services.spaces.manage import fit_space, import_space
from w2w_registry.services.spaces.release_points import add_points
from w2w_registry.services.synthesis import edit
from w2w_registry.services.synthesis.export import export
from w2w_registry.settings import load_settings

Array = NDArray[np.floating]
PEOPLE, WHO = 200, range(5, 13)
PIPELINE = str(DATA / "pipeline")
WAYS = ("into a space", "wherever it fits", "translated")
EVERYTHING = Scope(purposes=("any",), derivatives=True, publication=True)


def write(folder: Path, loras: Loras, row: int, *, again: bool = False, besides: Array | None = None) -> Path:
    """A training, or what it becomes with ``besides`` (D,)."""
    theta = (loras.retrained if again else loras.theta)[row] + (np.float32(0) if besides is None else besides)
    for path, content in lora_files(
        folder, loras.layout.unflatten(theta), loras.layout.alpha, fmt="peft", base_model=BASE_MODEL
    ).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``loras/p000`` to ``p199``, ``again`` of those who will refuse, ``strangers``."""
    folder, loras = tmp_path_factory.mktemp("people"), load_loras()
    for row in range(PEOPLE):
        write(folder / "loras" / f"p{row:03d}", loras, row)
    for row in WHO:
        write(folder / "again" / f"p{row:03d}", loras, row, again=True)
    for row in range(1000, 1020):
        write(folder / "strangers" / f"s{row}", loras, row)
    return folder


@pytest.fixture(scope="module")
def template(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that knows where its base model lies, of people who agreed: subject ``s005`` is p005."""
    home = tmp_path_factory.mktemp("home") / "registry"
    init_registry(load_settings(str(home), actor="tester"))
    (home / "registry.toml").write_text(f'[pipelines]\n"{BASE_MODEL}" = {json.dumps(PIPELINE)}\n')
    with open_registry(load_settings(str(home), actor="tester")) as registry:
        fit_space(registry, "faces", [str(world / "loras")], base_model=BASE_MODEL)
        for row in WHO:
            grants.grant(registry, f"s{row:03d}", EVERYTHING)
            found = put(registry, world / "loras" / f"p{row:03d}", subjects=[f"s{row:03d}"])
            assert found.status == "added"
        add(registry, AddRequest([str(world / "loras")]))
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Iterator[Registry]:
    folder = tmp_path / "registry"
    shutil.copytree(template, folder)
    with open_registry(load_settings(str(folder), actor="tester")) as registry:
        yield registry


@pytest.fixture
def few(template: Path, world: Path, tmp_path: Path) -> Iterator[Registry]:
    """A registry of five people, one of whom agreed."""
    home = tmp_path / "few"
    init_registry(load_settings(str(home), actor="tester"))
    shutil.copy(template / "registry.toml", home / "registry.toml")
    with open_registry(load_settings(str(home), actor="tester")) as registry:
        fit_space(registry, "faces", [str(world / "loras")], base_model=BASE_MODEL)
        grants.grant(registry, "s005", EVERYTHING)
        put(registry, world / "loras" / "p005", subjects=["s005"])
        for row in range(20, 24):
            assert put(registry, world / "loras" / f"p{row:03d}").status == "added"
        yield registry


def put(registry: Registry, path: Path, **options: object) -> Item:
    (item,) = add(registry, AddRequest([str(path)], **options)).items  # type: ignore[arg-type]
    return item


def test_whose_version_it_is_is_seen_by_what_it_draws(home: Registry, world: Path, tmp_path: Path) -> None:
    loras = load_loras()
    for row in range(20, 24):
        again = put(home, write(tmp_path / f"again{row}", loras, row, again=True), name=f"p{row:03d}")
        assert (again.version, again.held) == (2, False)
    held = 0
    for row in range(1000, 1010):
        foreseen = put(home, world / "strangers" / f"s{row}", name=f"p{row - 960:03d}", dry_run=True)
        stranger = put(home, world / "strangers" / f"s{row}", name=f"p{row - 960:03d}")
        assert (foreseen.held, foreseen.warnings) == (stranger.held, stranger.warnings)
        if stranger.held:
            assert f"held: it does not look like p{row - 960:03d}@1 (by behaviour: " in stranger.warnings[0]
            held += 1
    assert held >= 8


def test_whose_version_it_is_not_is_seen_late(
    home: Registry, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken in where nothing could be compared, as a foreign adapter is without its base model."""
    loras = load_loras()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(newcomers, "at_hand", lambda *_: None)
        elsewhere.setattr(namesakes, "_placed", lambda *_: None)
        for row in range(20, 23):
            assert put(home, write(tmp_path / f"again{row}", loras, row, again=True), name=f"p{row:03d}").version == 2
        for row in range(1000, 1005):
            stranger = put(home, world / "strangers" / f"s{row}", name=f"p{row - 960:03d}")
            assert (stranger.version, stranger.held) == (2, False)
    taken = take(home, newcomers.opened(PIPELINE))
    told = look_again(home, taken.base, taken.question, taken.versions)
    unlike = {row["version"]: row["like"] for row in resolve.held_versions(home) if row["why"] == str(Why.NAME)}
    assert len(unlike) >= 4
    assert unlike.items() <= {f"p{row:03d}@2": f"p{row:03d}@1" for row in range(40, 45)}.items()
    for version, like in unlike.items():
        assert f"{version} is held: it does not look like {like}" in told
    olga = replace(home, settings=replace(home.settings, actor="olga"))
    resolve.resolve(olga, next(iter(unlike)), distinct=True, reason="a new haircut")
    assert look_again(home, taken.base, taken.question, taken.versions) == []


def test_nobody_is_compared_late_where_every_name_has_one_version(
    home: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with home.catalog.read() as session:
        row = session.scalars(select(Fingerprint)).first()
        assert row is not None
    opened: list[object] = []
    monkeypatch.setattr(late_look, "open_gallery", lambda *given: opened.append(given))
    look_again(home, row.base, row.question, [row.version_id])
    assert not opened


def test_every_new_version_has_its_fingerprint(home: Registry) -> None:
    with home.catalog.read() as session:
        rows = session.scalars(select(Fingerprint)).all()
    assert len(rows) == PEOPLE
    assert len({(row.base, row.question) for row in rows}) == 1


@pytest.mark.parametrize("how", ["withdrawn", "removed", "erased", "protected"])
def test_a_second_training_does_not_come_in(home: Registry, world: Path, how: str) -> None:
    missed = []
    fit_space(home, "other", [str(world / "loras" / f"p{row:03d}") for row in range(20, 60)], base_model=BASE_MODEL)
    for row in WHO if how != "protected" else ():
        withdraw.withdraw(home, f"s{row:03d}", erase=how == "erased")
        if how == "removed":
            remove(home, f"p{row:03d}", perform=True)
    for row in WHO if how == "protected" else ():
        protect_subject(home, f"s{row:03d}", str(world / "loras" / f"p{row:03d}"))
    for row in WHO:
        for kind, space in (("product", "faces"), ("style", "other")):
            item = put(home, world / "again" / f"p{row:03d}", kind=kind, space=space, name=f"brush-{row}")
            if not isinstance(item.error, LikenessRefused):
                missed.append((row, space))
            else:
                assert item.error.subject == f"s{row:03d}"
    assert not missed


def test_strangers_come_in(home: Registry, world: Path) -> None:
    for row in WHO:
        withdraw.withdraw(home, f"s{row:03d}", erase=row % 2 == 0)
    items = add(home, AddRequest([str(world / "strangers")])).items
    assert sum(item.status == "added" for item in items) >= 19  # s1000 looks much like s007


def test_who_came_in_unseen_does_not_leave(
    home: Registry, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken in where no base model was at hand, seen later."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(newcomers, "at_hand", lambda *_: None)
        assert put(home, world / "again" / "p005", kind="style", name="brush").status == "added"
    other = replace(home, settings=replace(home.settings, actor="somebody else"))
    resolve.resolve(other, "brush", distinct=True, reason="seen")  # its weights alone had it held
    export(home, "brush", str(tmp_path / "before"))
    take(home, newcomers.opened(PIPELINE), ["brush"])
    withdraw.withdraw(home, "s005", erase=True)
    with pytest.raises(ConsentDenied) as caught:
        export(home, "brush", str(tmp_path / "after"))
    assert caught.value.subjects == ("s005",)


def unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights say nothing, and what is drawn is never sure enough to refuse."""
    monkeypatch.setattr(Door, "_against", lambda _self, _place, vectors: [[] for _ in vectors])
    monkeypatch.setattr(behaviour, "ALARM", -1.0)


def test_who_may_be_somebody_who_refused_waits_for_another_person(
    home: Registry, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erased: nobody is registered whom it could be held for."""
    unsure(monkeypatch)
    withdraw.withdraw(home, "s006", erase=True)
    found = put(home, world / "again" / "p006", kind="style", name="brush")
    assert found.status == "added"
    assert "may draw somebody who refused" in found.warnings[0]
    (held,) = resolve.held_versions(home)
    assert (held["version"], held["like"], held["why"]) == ("brush@1", None, "may be somebody who refused")
    with pytest.raises(HeldBack):
        export(home, "brush", str(tmp_path / "out"))
    other = replace(home, settings=replace(home.settings, actor="somebody else"))
    assert resolve.resolve(other, "brush", distinct=True, reason="seen")["state"] == "active"
    export(home, "brush", str(tmp_path / "out"))


def test_what_was_made_of_a_second_training_outside_waits(
    home: Registry, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise as people differ it comes no nearer than strangers do, but no training leaves such weights."""
    monkeypatch.setattr(Door, "_against", lambda _self, _place, vectors: [[] for _ in vectors])
    loras, (_, space), rng = load_loras(), open_space(home, "faces"), np.random.default_rng(5)
    noises = {}
    for who in WHO:
        withdraw.withdraw(home, f"s{who:03d}", erase=who % 2 == 0)
        noise = space.reconstruct(1.0 * space.component_std * rng.normal(size=space.k)) - space.mean
        noises[who] = noise
        write(tmp_path / "noisy" / f"n{who:03d}", loras, who, again=True, besides=noise)
    request = AddRequest([str(tmp_path / "noisy")], kind="style")
    plans = [planned(home, request, way) for way in ("into a space", "wherever it fits")]
    found = add(home, request)
    for plan in plans:
        assert [(one.held, one.warnings) for one in plan] == [(one.held, one.warnings) for one in found.items]
    assert sum(one.held for one in found.items) >= 6
    assert any("no training leaves such weights" in " ".join(item.warnings) for item in found.items)
    whys = [row["why"] for row in resolve.held_versions(home)]
    assert whys.count(str(Why.MADE)) == sum("no training" in " ".join(item.warnings) for item in found.items)
    strangers = add(home, AddRequest([str(world / "strangers")]))
    assert sum(item.held for item in strangers.items) <= 1
    with monkeypatch.context() as elsewhere:  # taken in unseen, it waits once it is seen
        elsewhere.setattr(newcomers, "at_hand", lambda *_: None)
        write(tmp_path / "more" / "m008", loras, 8, again=True, besides=1.01 * noises[8])
        add(home, AddRequest([str(tmp_path / "more")], kind="style"))
    taken = take(home, newcomers.opened(PIPELINE))
    told = look_again(home, taken.base, taken.question, taken.versions)
    assert any("m008@1 is held" in one and str(Why.MADE) in one for one in told)


def test_weights_and_what_is_drawn_hold_together_whom_neither_does(
    home: Registry, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise in the components in which people differ most: its weights are as ordinary as a training's."""
    monkeypatch.setattr(Door, "_against", lambda _self, _place, vectors: [[] for _ in vectors])
    for limit in ("ALARM", "HOLD"):
        monkeypatch.setattr(behaviour, limit, -1.0)
    monkeypatch.setattr(Places, "unusual", lambda *_: False)
    loras, (_, space), rng = load_loras(), open_space(home, "faces"), np.random.default_rng(5)
    for who in WHO:
        withdraw.withdraw(home, f"s{who:03d}", erase=who % 2 == 0)
        points = np.where(np.arange(space.k) < 20, 0.5 * space.component_std * rng.normal(size=space.k), 0.0)
        write(
            tmp_path / "noisy" / f"n{who:03d}", loras, who, again=True, besides=space.reconstruct(points) - space.mean
        )
    request = AddRequest([str(tmp_path / "noisy")], kind="style")
    foreseen, found = planned(home, request, "into a space"), add(home, request).items
    assert [one.held for one in foreseen] == [one.held for one in found]
    doubts = ["may draw somebody who refused" in " ".join(item.warnings) for item in found]
    assert all(one.held for one in found)
    assert not any(doubts[::2])  # of whom a version is there, it resembles that, …
    assert sum(doubts[1::2]) >= 2  # …and of whom signs are, those
    strangers = add(home, AddRequest([str(world / "strangers")])).items
    assert sum(item.held for item in strangers) <= 1


def test_who_was_taken_in_unseen_waits_once_it_is_seen(
    home: Registry, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsure(monkeypatch)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(newcomers, "at_hand", lambda *_: None)
        put(home, world / "again" / "p005", kind="style", name="brush")
    other = replace(home, settings=replace(home.settings, actor="somebody else"))
    resolve.resolve(other, "brush", distinct=True, reason="seen")  # its weights alone had it held
    withdraw.withdraw(home, "s006", erase=True)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(newcomers, "at_hand", lambda *_: None)
        assert put(home, world / "again" / "p006", kind="style", name="pen").status == "added"
    taken = take(home, newcomers.opened(PIPELINE))
    told = look_again(home, taken.base, taken.question, taken.versions)
    assert any("pen@1 is held" in one for one in told)
    assert not any("brush@1" in one for one in told)


@pytest.mark.parametrize("erase", [False, True])
def test_a_registry_of_a_few_lets_nobody_back(few: Registry, world: Path, tmp_path: Path, erase: bool) -> None:
    withdraw.withdraw(few, "s005", erase=erase)
    strangers = add(few, AddRequest([str(world / "strangers")])).items
    assert sum(item.held for item in strangers) <= 1
    found = put(few, world / "again" / "p005", kind="style", name="brush")
    if not isinstance(found.error, LikenessRefused):
        assert found.held
        with pytest.raises(ConsentDenied):
            export(few, "brush", str(tmp_path / "out"))


def test_many_who_refuse_among_a_few_are_known_by_one_another(few: Registry, world: Path) -> None:
    """Protected before anybody could say how people differ: each was known by a cosine alone, too poor to refuse."""
    from w2w_registry.diffusion.fingerprint import read_adapter

    remove(few, "p005", perform=True)
    for row in (*WHO, *range(40, 80)):
        protect_subject(few, f"s{row:03d}", str(world / "loras" / f"p{row:03d}"))
    items = [put(few, world / "again" / f"p{row:03d}", kind="style", name=f"brush-{row}") for row in WHO]
    assert all(item.held or isinstance(item.error, LikenessRefused) for item in items)
    prober = newcomers.opened(PIPELINE)
    taken = prober.of_adapters([read_adapter(world / "again" / f"p{row:03d}") for row in WHO])
    asked = [[Print(prober.base, prober.question, one)] for one in taken]
    with few.catalog.read() as session:
        drawn = [one for (one,) in Door(few, session)._who.behaviour.against(asked)]
    assert [one.subject for one in drawn] == [f"s{row:03d}" for row in WHO]
    assert all(one.similarity >= 0.998 for one in drawn)  # a stranger comes so near twice in a thousand at most
    strangers = add(few, AddRequest([str(world / "strangers")])).items
    assert sum(item.status == "added" and not item.held for item in strangers) >= 18


def planned(home: Registry, request: AddRequest, way: str) -> Sequence[Item]:
    """What a dry run says, one of the three ways there are."""
    asked = replace(request, dry_run=True)
    if way == "into a space":
        return add(home, replace(asked, space="faces")).items
    if way == "translated":
        return translated.add(home, asked, "/nowhere").items
    return foreseeing.asked(home, asked, intake.plan(home, intake.survey(asked), fit=False)).items


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_foresees_who_waits_in_doubt(
    home: Registry, world: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Whom nobody registered resembles: only the doubt itself holds them."""
    unsure(monkeypatch)
    withdraw.withdraw(home, "s006", erase=True)
    files = [str(world / "again" / "p006"), str(world / "strangers" / "s1003")]
    request = AddRequest(files, kind="style", prefix="x/")
    foreseen = planned(home, request, way)
    done = add(home, request).items
    assert [(one.held, one.warnings) for one in foreseen] == [(one.held, one.warnings) for one in done]
    assert [one.held for one in done] == [True, False]


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_says_what_the_door_will(home: Registry, world: Path, way: str) -> None:
    withdraw.withdraw(home, "s005")
    files = [world / "again" / "p005", world / "again" / "p007", world / "strangers" / "s1003"]
    request = AddRequest([str(path) for path in files], kind="style", prefix="x/")
    before = len(browse(home))
    foreseen = planned(home, request, way)
    done = add(home, request).items
    assert [(one.status, one.held) for one in foreseen] == [(one.status, one.held) for one in done]
    assert [(one.status, one.held) for one in done] == [("failed", False), ("added", True), ("added", False)]
    assert isinstance(foreseen[0].error, LikenessRefused)
    assert "held: it resembles p007@1" in foreseen[1].warnings[0]
    assert len(browse(home)) == before + 2


def test_points_of_a_release_pass_the_door_with_their_fingerprints(home: Registry) -> None:
    withdraw.withdraw(home, "s005", erase=True)
    loras, (_, space) = load_loras(), open_space(home, "faces")
    points = space.project(space.in_gauge(np.stack([loras.theta[5], loras.theta[1001], loras.theta[1003]])))
    done = add_points(home, "faces@1", "them", space, points, {}, no_progress)
    assert (done.added, done.refused, done.unseen) == (2, 1, None)
    names = [str(one["identity"]) for one in browse(home)]
    assert {name for name in names if name.startswith("them/")} == {"them/1", "them/2"}
    with home.catalog.read() as session:
        assert len(session.scalars(select(Fingerprint)).all()) == PEOPLE - 1 + 2
    again = add_points(home, "faces@1", "them", space, points, {}, no_progress)
    assert (again.added, again.refused) == (0, 1)


def test_points_that_nobody_can_draw_are_said_to_be_compared_by_weights(
    home: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdraw.withdraw(home, "s005")
    _, space = open_space(home, "faces")
    monkeypatch.setattr(newcomers, "at_hand", lambda *_: None)
    done = add_points(
        home, "faces@1", "them", space, space.project(space.in_gauge(load_loras().theta[1001:1002])), {}, no_progress
    )
    assert (done.added, done.refused) == (1, 0)
    assert "is not on this machine" in str(done.unseen)


def test_without_the_base_model_the_weights_decide_and_it_is_said(
    home: Registry, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdraw.withdraw(home, "s005")
    monkeypatch.setattr(newcomers, "at_hand", lambda *_: None)
    item = put(home, world / "strangers" / "s1003")
    assert item.status == "added"
    assert "by its weights alone" in item.warnings[0]


def test_forgotten_leaves_no_reference(home: Registry) -> None:
    with pytest.raises(SecondPersonNeeded):
        withdraw.withdraw(home, "s005", erase=True, protect=False)
    other = replace(home, settings=replace(home.settings, actor="second"))
    withdraw.withdraw(other, "s005", erase=True, protect=False)
    withdraw.withdraw(home, "s006", erase=True)
    with home.catalog.read() as session:
        rows = session.scalars(select(GuardReference)).all()
    assert {row.subject_id for row in rows} == {"s006"}
    assert any(row.kind.startswith("behaviour ") for row in rows)


def test_what_lies_nowhere_is_known_at_once(home: Registry) -> None:
    assert at_hand(home, BASE_MODEL) == PIPELINE
    assert at_hand(home, "somebody/other-model") is None
    assert at_hand(home, None) is None


def forged(home: Registry, row: int, out: Path, *, shift: float = 0.0) -> str:
    """A space around a second training of somebody, as ``faces`` is otherwise; ``shift``: its mean lies aside, and only
    its identities about that person."""
    _, space = open_space(home, "faces")
    mean, middle = load_loras().retrained[row], None
    if shift:
        middle = np.zeros(space.k, np.float32)
        middle[0] = shift * space.component_std[0]
        mean = mean - (space.reconstruct(middle) - space.mean)
    write_space(out, replace(space, mean=mean, coordinate_mean=middle, calibration=None))
    return str(import_space(home, out.name, str(out))["space"])


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_what_was_made_in_a_space_around_somebody_who_refused_stays(
    home: Registry, tmp_path: Path, shift: float
) -> None:
    """They withdraw after the samples were made: each is too far from them by itself, all are made around them."""
    ref = forged(home, 5, tmp_path / "theirs", shift=shift)
    made = [one for one in edit.sample(home, 8, space=ref, name="n", seed=1)["samples"] if one["held"] is None]
    assert len(made) > 2
    edit.mix(home, [one["ref"] for one in made[:2]], [0.5, 0.5], name="mixed")
    edit.sample(home, 1, space="faces", name="fine", seed=2)
    withdraw.withdraw(home, "s005")
    with home.catalog.read() as session:
        met = Door(home, session).encounters([version_for(session, one["ref"]).id for one in made])
    assert len(met) < len(made)
    for name in (*(one["ref"] for one in made), "mixed"):
        with pytest.raises(ConsentDenied) as caught:
            export(home, name, str(tmp_path / "out"), fmt="kohya")
        assert "s005" in caught.value.fields["subjects"]
    with pytest.raises(ConsentDenied):
        edit.sample(home, 1, space=ref, name="again", seed=3)
    export(home, "fine-001", str(tmp_path / "fine"), fmt="kohya")


def test_a_stranger_cut_to_a_point_around_somebody_who_refused_stays(
    home: Registry, world: Path, tmp_path: Path
) -> None:
    """The stranger's own LoRA leaves; of a space of one axis their coordinates leave only that person."""
    _, space = open_space(home, "faces")
    cut = replace(space.truncated(1), mean=load_loras().retrained[5], calibration=None, start=None)
    write_space(tmp_path / "thin", cut)
    import_space(home, "thin", str(tmp_path / "thin"))
    assert put(home, world / "strangers" / "s1005", space="thin", name="odd", kind="style").status == "added"
    withdraw.withdraw(home, "s005")
    export(home, "odd", str(tmp_path / "own"), fmt="original")
    with pytest.raises(LikenessRefused):
        export(home, "odd", str(tmp_path / "cut"), fmt="kohya", from_coordinates=True)
    with pytest.raises(LikenessRefused):
        export(home, "odd", str(tmp_path / "point"), fmt="coordinates")


def test_a_sample_made_unseen_does_not_leave_unseen(
    home: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdraw.withdraw(home, "s005")
    with monkeypatch.context() as blind:
        blind.setattr(newcomers, "at_hand", lambda *a: None)
        edit.sample(home, 1, space="faces", name="n", seed=1)
        with pytest.raises(NotCompared):
            export(home, "n-001", str(tmp_path / "out"))
    take(home, newcomers.opened(PIPELINE), ["n-001"])
    export(home, "n-001", str(tmp_path / "out"))
