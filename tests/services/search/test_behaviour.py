"""Searching by what adapters draw: fingerprints taken, kept and erased; verdicts; who is who."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from examples.miniworld.unpack import BASE_MODEL, DATA, Loras, load_loras
from w2w_registry.catalog.models import Event, Fingerprint, VerdictCalibration
from w2w_registry.diffusion.fingerprint import ONE_PROBE
from w2w_registry.errors import ConsentDenied, NotFound, NothingCompared, UsageError
from w2w_registry.lora import lora_files
from w2w_registry.messages import message
from w2w_registry.services.consent import withdraw
from w2w_registry.services.identities import intake
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.recording import fingerprints, newcomers
from w2w_registry.services.recording.fingerprints import Prober, open_prober, opener_for, take
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.services.search.behaviour import calibrate, calibrate_at_hand
from w2w_registry.services.search.draws import search_by
from w2w_registry.services.search.groups import groups
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.settings import load_settings

PEOPLE, REPEATS = 100, 24


def write(folder: Path, loras: Loras, row: int, *, again: bool = False) -> None:
    theta = (loras.retrained if again else loras.theta)[row]
    files = lora_files(folder, loras.layout.unflatten(theta), loras.layout.alpha, fmt="peft", base_model=BASE_MODEL)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture(scope="module")
def prober() -> Prober:
    return open_prober(str(DATA / "pipeline"), device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``loras/p00`` to ``p99``, ``repeats`` and ``again`` of the first 40, ``strangers``."""
    folder, loras = tmp_path_factory.mktemp("people"), load_loras()
    for row in range(PEOPLE):
        write(folder / "loras" / f"p{row:02d}", loras, row)
    for row in range(40):
        write(folder / ("repeats" if row < REPEATS else "again") / f"p{row:02d}", loras, row, again=True)
    for row in range(1000, 1010):
        write(folder / "strangers" / f"s{row}", loras, row)
    return folder


@pytest.fixture(scope="module")
def template(world: Path, prober: Prober, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with everybody's fingerprint, and what the repeats taught."""
    home = tmp_path_factory.mktemp("home") / "registry"
    settings = load_settings(str(home), actor="tester")
    init_registry(settings)
    with open_registry(settings) as registry:
        fit_space(registry, "faces", [str(world / "loras")], base_model=BASE_MODEL)
        add(registry, AddRequest([str(world / "loras")], subjects=[]))
        assert take(registry, prober, ["p00", "p01"]).taken == 2
        rest = take(registry, prober)
        assert (rest.taken, rest.already, rest.skipped) == (PEOPLE - 2, 2, ())
        assert take(registry, prober).taken == 0
    return home


@pytest.fixture
def filled(template: Path, tmp_path: Path) -> Iterator[Registry]:
    home = tmp_path / "registry"
    shutil.copytree(template, home)
    with open_registry(load_settings(str(home), actor="tester")) as registry:
        yield registry


def test_a_retrained_person_is_found_by_what_it_draws(filled: Registry, world: Path, prober: Prober) -> None:
    queries = [str(world / "again" / f"p{n:02d}") for n in range(REPEATS, 40)]
    found = search_by(filled, queries, "behaviour", opener=lambda: prober, limit=3)
    assert [f.results[0].identity for f in found] == [Path(q).name for q in queries]
    assert all(f.by == "behaviour" and f.space is None and f.people == PEOPLE for f in found)
    assert "repeats" in found[0].warnings[0]


def test_who_answered_an_earlier_question_is_found_by_it(
    filled: Registry, world: Path, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry whose fingerprints an earlier release took."""
    earlier = replace(prober, question=f"{ONE_PROBE} {prober.prompt}")
    take(filled, earlier)
    with filled.catalog.write("tester") as uow:
        uow.bulk_delete(Fingerprint, uow.keys(Fingerprint, Fingerprint.question == prober.question))
        uow.event("fingerprint.take", {"version": [1]}, base=prober.base, count=0)
    assert [one.question for one in newcomers.probers(filled, prober)] == [earlier.question]
    query = str(world / "again" / "p31")
    (found,) = search_by(filled, [query], "behaviour", opener=lambda: prober, limit=1)
    assert (found.results[0].identity, found.people) == ("p31", PEOPLE)
    assert calibrate(filled, prober, [str(world / "repeats")])["question"] == earlier.question
    take(filled, prober, ["p31"])
    assert len(newcomers.probers(filled, prober)) == 2
    (found,) = search_by(filled, [query], "behaviour", opener=lambda: prober, limit=1)
    assert (found.results[0].identity, found.people) == ("p31", PEOPLE)


def test_repeats_teach_a_verdict(filled: Registry, world: Path, prober: Prober) -> None:
    value = calibrate(filled, prober, [str(world / "repeats")])
    assert value["repeats"] == {"retrained": REPEATS}
    queries = [str(world / "again" / f"p{n:02d}") for n in range(REPEATS, 40)]
    known = search_by(filled, queries, None, opener=lambda: prober)
    assert sum(f.results[0].verdict == "same" for f in known) >= 14
    assert not any(hit.verdict == "same" for f in known for hit in f.results[1:])
    assert all(f.gap is not None and f.gap > 0 for f in known)
    strangers = [str(p) for p in sorted((world / "strangers").iterdir())]
    unknown = search_by(filled, strangers, "behaviour", opener=lambda: prober)
    assert sum(f.results[0].verdict == "same" for f in unknown) <= 1
    assert all(0 < f.results[0].false_alarm <= 1 for f in unknown if f.results[0].false_alarm is not None)
    with filled.catalog.read() as session:
        assert session.scalar(select(func.count()).select_from(VerdictCalibration)) == 1


def test_the_best_there_is_without_being_told(filled: Registry, world: Path) -> None:
    # A registered name has its fingerprint: no base model is needed. A file has none: weights it is.
    assert search_by(filled, ["p07"])[0].by == "behaviour"
    (by_weights,) = search_by(filled, [str(world / "again" / "p30")])
    assert by_weights.by == "weights"
    assert by_weights.results[0].verdict in ("likely", "no")
    assert search_by(filled, ["p07"], "weights")[0].space == "faces@1"
    with pytest.raises(UsageError, match="no base model is open"):
        search_by(filled, [str(world / "again" / "p30")], "behaviour")
    with pytest.raises(NotFound):
        search_by(filled, ["nobody"])


def test_a_base_model_on_this_machine_is_asked_without_being_named(
    filled: Registry, world: Path, prober: Prober, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = str(world / "again" / "p30")
    assert opener_for(filled, "weights", None) is None
    opener = opener_for(filled, None, None)
    assert opener is not None  # where `fingerprint` opened it from was remembered
    assert opener().base == prober.base
    assert search_by(filled, [again], opener=lambda: prober)[0].by == "behaviour"
    assert search_by(filled, [again], opener=lambda: prober, fast=True)[0].by == "weights"
    with pytest.raises(UsageError, match="everybody is compared"):
        search_by(filled, [again], "behaviour", opener=lambda: prober, fast=True)
    # What the base model cannot load, or another base model, leaves weights, and says so.
    other = replace(prober, base="0" * 64)
    (found,) = search_by(filled, [again], opener=lambda: other)
    assert found.by == "weights"
    assert found.results[0].identity == "p30"
    assert "what it draws was not compared" in found.warnings[0]
    filled.settings.pipelines_used_file.unlink()
    assert opener_for(filled, None, None) is None
    monkeypatch.setattr(fingerprints, "find_spec", lambda _: None)
    filled.settings.pipelines[BASE_MODEL] = str(DATA / "pipeline")
    assert opener_for(filled, None, None) is None  # without torch


def test_the_blocked_are_found_by_what_they_draw_when_asked_for(filled: Registry, world: Path, prober: Prober) -> None:
    add(filled, AddRequest([str(world / "strangers" / "s1003")], subjects=["subject-1"]))
    take(filled, prober)
    withdraw.withdraw(filled, "subject-1")

    def named(**options: bool) -> set[str]:
        (found,) = search_by(filled, ["p07"], limit=PEOPLE + 1, **options)  # type: ignore[arg-type]
        assert found.by == "behaviour"
        return {hit.identity for hit in found.results}

    assert named(include_blocked=True) - named() == {"s1003"}


def test_both_show_the_weights_beside_it(filled: Registry) -> None:
    (found,) = search_by(filled, ["p07"], "both", limit=2)
    assert found.results[0].score_weights == pytest.approx(1.0, abs=1e-4)
    assert "score_weights" in found.to_json()["results"][0]
    assert "score_weights" not in search_by(filled, ["p07"])[0].to_json()["results"][0]


def test_filters_and_what_is_gone_count(filled: Registry) -> None:
    (found,) = search_by(filled, ["p07"], limit=3, where="name != p07")
    assert "p07" not in [hit.identity for hit in found.results]
    second = found.results[0].identity
    remove(filled, second, perform=True)
    (found,) = search_by(filled, ["p07"], limit=PEOPLE)
    assert second not in [hit.identity for hit in found.results]
    assert found.people == PEOPLE - 1


def test_an_erased_person_leaves_no_fingerprint(filled: Registry, world: Path, prober: Prober) -> None:
    add(filled, AddRequest([str(world / "strangers" / "s1003")], subjects=["subject-1"]))
    take(filled, prober)
    with filled.catalog.read() as session:
        before = session.scalar(select(func.count()).select_from(Fingerprint))
    assert before == PEOPLE + 1
    withdraw.withdraw(filled, "subject-1")
    with pytest.raises(ConsentDenied):
        search_by(filled, ["s1003"])
    (found,) = search_by(filled, ["p07"], limit=PEOPLE + 1)
    assert "s1003" not in [hit.identity for hit in found.results]
    withdraw.withdraw(filled, "subject-1", erase=True)
    with filled.catalog.read() as session:
        assert session.scalar(select(func.count()).select_from(Fingerprint)) == PEOPLE


def test_who_is_there_under_two_names(filled: Registry, world: Path, prober: Prober) -> None:
    calibrate(filled, prober, [str(world / "repeats")])
    assert groups(filled).groups == ()
    for person in ("p30", "p35"):
        add(filled, AddRequest([str(world / "again" / person)], name=f"also-{person}"))
    # The base model's folder is known from the first run: what is added has its fingerprint at once.
    assert take(filled, prober).taken == 0
    found = groups(filled)
    assert (found.by, found.compared) == ("behaviour", PEOPLE + 2)
    assert set(found.groups) == {("also-p30", "p30"), ("also-p35", "p35")}
    told = found.to_json()
    assert told["links"] == len(told["scores"]) == len(told["false_alarms"]) == 2
    assert all(alarm < 0.02 for alarm in told["false_alarms"])
    assert told["false_links"] <= 0.5
    assert groups(filled, "weights").by == "weights"


def test_where_nothing_can_be_compared_the_nearest_cure_is_named(world: Path, tmp_path: Path) -> None:
    settings = load_settings(str(tmp_path / "empty"), actor="tester")
    init_registry(settings)
    with open_registry(settings) as registry:
        request = AddRequest([str(world / "again" / "p30")], base_model=BASE_MODEL)
        intake.perform(registry, request, intake.plan(registry, intake.survey(request), fit=True))
        with pytest.raises(NothingCompared) as far:
            groups(registry)
        assert "`w2w-reg space fit`" in message(far.value)
        settings.pipelines[BASE_MODEL] = str(DATA / "pipeline")
        with pytest.raises(NothingCompared) as near:
            groups(registry)
        assert "on this machine: `w2w-reg fingerprint`" in message(near.value)


def test_what_cannot_be_probed_is_named_and_the_others_go_on(
    filled: Registry, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fingerprints.adapter_of

    def unreadable(registry: Registry, session: object, version: object) -> object:
        if version.id == 3:  # type: ignore[attr-defined]
            raise UsageError(reason="its file is gone")
        return real(registry, session, version)  # type: ignore[arg-type]

    monkeypatch.setattr(fingerprints, "adapter_of", unreadable)
    taken = take(filled, prober, again=True)
    assert taken.taken == PEOPLE - 1
    assert [reason for _, reason in taken.skipped] == ["its file is gone"]
    with filled.catalog.read() as session:
        assert session.scalar(select(func.count()).select_from(Fingerprint)) == PEOPLE


def test_every_fingerprint_has_its_event(filled: Registry) -> None:
    with filled.catalog.read() as session:
        events = session.scalars(select(Event).where(Event.action == "fingerprint.take")).all()
        assert sum(event.payload["count"] for event in events) == PEOPLE


def test_a_space_fitted_with_repeats_says_what_it_could_not_learn(tmp_path: Path, world: Path) -> None:
    home = tmp_path / "registry"
    init_registry(load_settings(str(home), actor="tester"))
    with open_registry(load_settings(str(home), actor="tester")) as registry:
        for base, missing in (("somebody/elsewhere", "not on this machine"), (str(DATA / "pipeline"), "fewer than 20")):
            told = calibrate_at_hand(registry, base, str(world / "repeats"))
            assert isinstance(told, str)
            assert missing in told
            assert "w2w-reg calibrate" in told
