"""Directions, edits, mixtures, samples, inversion, training, pictures and exports, through the services."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from tests.diffusion import tiny
from tests.services import studio
from w2w_registry.catalog.events import events
from w2w_registry.catalog.models import Coordinates, Event, Operation, OperationInput, Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.space_rows import directions_in
from w2w_registry.catalog.vectors import unpack
from w2w_registry.consent.records import Scope
from w2w_registry.diffusion.images import METADATA_KEY
from w2w_registry.errors import BadImage, Conflict, ConsentDenied, NotFound, OutputExists, UsageError
from w2w_registry.lora import read_lora
from w2w_registry.services.consent import grants
from w2w_registry.services.provenance.whose import whose
from w2w_registry.services.recording import energy, policies
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry, open_registry
from w2w_registry.services.reports import roi
from w2w_registry.services.synthesis import (
    direction_list,
    directions,
    edit,
    engine,
    evaluate,
    export,
    generate,
    invert,
    new_versions,
    preview,
    sample_sheet,
    train,
    training,
)
from w2w_registry.settings import load_settings

FAST = {"steps": 4, "samples": 2, "prior": 1e-4}
"""Next to no prior, or the answer to a photo of noise is the start."""


def facts_in(path: str) -> dict[str, Any]:
    """What a picture of ours says of itself."""
    with Image.open(path) as image:
        return json.loads(image.text[METADATA_KEY])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from w2w_registry.diffusion.pipeline import load_model

    root = tmp_path_factory.mktemp("studio")
    pipeline = tiny.build("sd1", root)
    studio.build(root, pipeline, tiny.layout(load_model(pipeline, device="cpu").unet))
    return root


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Iterator[Registry]:
    shutil.copytree(template / "home", tmp_path / "home")
    with open_registry(load_settings(tmp_path / "home", env={}, actor="curator")) as opened:
        yield opened


def point(registry: Registry, ref: str) -> np.ndarray:
    with registry.catalog.read() as session:
        version = version_for(session, ref)
        row = session.scalar(select(Coordinates).where(Coordinates.version_id == version.id))
        assert row is not None
        return unpack(row.data)


def operation(registry: Registry, ref: str) -> tuple[Operation, list[OperationInput]]:
    with registry.catalog.read() as session:
        version = version_for(session, ref)
        found = session.get_one(Operation, version.operation_id)
        inputs = session.scalars(
            select(OperationInput).where(OperationInput.operation_id == found.id).order_by(OperationInput.position)
        )
        return found, list(inputs)


def counts(registry: Registry) -> tuple[int, int]:
    with registry.catalog.read() as session:
        versions = session.scalar(select(func.count()).select_from(Version)) or 0
        return versions, session.scalar(select(func.count()).select_from(Event)) or 0


# -- directions --------------------------------------------------------------------------------------
def test_directions_are_fitted_listed_and_measured(registry: Registry) -> None:
    beard = directions.fit(registry, "beard", "beard")
    assert beard["quality"]["measure"] == "auroc"
    assert beard["quality"]["value"] > 0.9
    assert set(beard["leakage"]) == {"hat", "skin"}
    skin = directions.fit(registry, "skin", "skin")
    assert skin["quality"]["measure"] == "r2"
    assert [d["direction"] for d in direction_list.list_directions(registry)] == ["beard", "skin"]
    assert direction_list.show(registry, "beard")["digest"] == beard["digest"]


def test_every_label_at_once_is_each_by_itself(registry: Registry) -> None:
    beard = directions.fit(registry, "beard", "beard")
    made = {one["direction"]: one for one in directions.fit_many(registry)}
    assert made["beard"]["digest"] == beard["digest"]
    assert made["beard"]["leakage"] == beard["leakage"]
    assert set(made) >= {"beard", "hat", "skin"}


def test_a_direction_is_stored_once_and_replaced_only_when_asked(registry: Registry) -> None:
    first = directions.fit(registry, "beard", "beard")
    assert directions.fit(registry, "beard", "beard")["digest"] == first["digest"]
    with pytest.raises(Conflict):
        directions.fit(registry, "beard", "hat")
    changed = directions.fit(registry, "beard", "hat", replace_existing=True)
    assert changed["attribute"] == "hat"
    with pytest.raises(NotFound):
        directions.fit(registry, "x", "moustache")


def test_debias_and_compose(registry: Registry) -> None:
    directions.fit(registry, "beard", "beard")
    directions.fit(registry, "hat", "hat")
    clean = directions.debias(registry, "beard-only", "beard", ["hat", "skin"])
    assert clean["kept"] == ["hat", "skin"]
    assert max(abs(v) for v in clean["leakage"].values()) < 1e-4
    both = directions.compose(registry, "pirate", {"beard": 1.0, "hat": 2.0})
    assert both["method"] == "composed"
    with pytest.raises(UsageError):
        directions.debias(registry, "x", "beard", [])


# -- edit, mix, sample -------------------------------------------------------------------------------
def test_edit_moves_the_reading_and_records_how(registry: Registry) -> None:
    directions.fit(registry, "beard", "beard")
    made = edit.edit(registry, "p00", {"beard": 1.5}, name="p00-bearded", keep=["hat"])
    assert made["ref"] == "p00-bearded@1"
    with registry.catalog.read() as session:
        row = directions_in(session, open_space(registry, None)[0].id)[0]
    fitted = directions.from_row(row)
    change = float(fitted.read(point(registry, "p00-bearded")) - fitted.read(point(registry, "p00")))
    assert change == pytest.approx(1.5 * fitted.spread, rel=1e-3)
    op, inputs = operation(registry, "p00-bearded")
    assert op.kind == "edit"
    assert op.params["amounts"] == {"beard": 1.5}
    assert [i.role for i in inputs] == ["source", "space", "direction"]
    assert inputs[2].digest == row.digest


def test_what_leads_farther_than_anybody_is_said_before_and_after(registry: Registry) -> None:
    """Also where a thousand components hide it from the mean over all of them; not on the way back."""
    directions.fit(registry, "beard", "beard")

    def said(ref: str, amount: float, name: str) -> bool:
        before = preview.prospect(registry, ref, {"beard": amount})
        done = edit.edit(registry, ref, {"beard": amount}, name=name)
        found = {any("where hardly anybody is" in w for w in told) for told in (before.warnings, done.warnings)}
        assert len(found) == 1
        return found.pop()

    assert not said("p00", 0.5, "near")
    assert said("p00", 9.0, "far")
    assert said("far", 1.0, "farther")
    assert not said("farther", -2.0, "nearer")


def test_on_and_off_reach_the_other_side(registry: Registry) -> None:
    directions.fit(registry, "beard", "beard")
    with registry.catalog.read() as session:
        (row,) = directions_in(session, open_space(registry, None)[0].id)
    fitted = directions.from_row(row)
    edit.edit(registry, "p00", {"beard": True}, name="on")
    edit.edit(registry, "p01", {"beard": False}, name="off")
    middle = sum(fitted.levels) / 2
    assert float(fitted.read(point(registry, "p00"))) < middle < float(fitted.read(point(registry, "on")))
    assert float(fitted.read(point(registry, "off"))) < middle < float(fitted.read(point(registry, "p01")))


@pytest.mark.parametrize("text", ["", "beard", "beard=", "=1", "beard=much", "beard=1,beard=2", "beard=inf"])
def test_amounts_must_make_sense(text: str) -> None:
    with pytest.raises(UsageError):
        edit.parse_amounts(text)


def test_amounts_are_read() -> None:
    assert edit.parse_amounts("beard=+1.5, glasses=-1 ,hat=on") == {"beard": 1.5, "glasses": -1.0, "hat": True}


def test_mix_lies_between(registry: Registry) -> None:
    made = edit.mix(registry, ["p00", "p01"], edit.mixing_weights(2, [0.3]), name="both")
    expected = 0.3 * point(registry, "p00") + 0.7 * point(registry, "p01")
    np.testing.assert_allclose(point(registry, "both"), expected, rtol=1e-4, atol=1e-4)
    assert made["weights"] == pytest.approx([0.3, 0.7])
    _, inputs = operation(registry, "both")
    assert [i.kind.value for i in inputs] == ["version", "version", "space"]
    for weights in ([1.5], [0.5, 0.2, 0.3]):
        with pytest.raises(UsageError):
            edit.mixing_weights(2, weights)


def test_samples_are_new_and_far_enough(registry: Registry) -> None:
    made = edit.sample(registry, 5, seed=3, min_distance=0.05)
    assert [s["ref"] for s in made["samples"]] == [f"sample-00{i}@1" for i in range(1, 6)]
    assert min(s["distance"] for s in made["samples"]) >= 0.05
    again = edit.sample(registry, 2, seed=4)
    assert [s["identity"] for s in again["samples"]] == ["sample-006", "sample-007"]
    with pytest.raises(UsageError):
        edit.sample(registry, 3, min_distance=1.99)


def test_one_operation_stands_behind_every_version(registry: Registry) -> None:
    edit.sample(registry, 3)
    refs = [f"sample-00{i}" for i in (1, 2, 3)]
    operations = {operation(registry, ref)[0].id for ref in refs}
    assert len(operations) == 3
    with registry.catalog.read() as session:
        actions = list(session.scalars(select(Event.action).order_by(Event.seq)))[-7:]
    assert actions == ["version.add", "version.sample"] * 3 + ["fingerprint.take"]  # of what the space draws


def test_nothing_is_left_when_one_of_many_cannot_be_recorded(registry: Registry, monkeypatch: Any) -> None:
    before = counts(registry)
    calls = {"n": 0}
    real = new_versions.record_versions
    monkeypatch.setattr(new_versions, "_TOGETHER", 1)

    def breaks(*args: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 3:
            raise OSError("power cut")
        return real(*args)

    monkeypatch.setattr(new_versions, "record_versions", breaks)
    with pytest.raises(OSError, match="power cut"):
        edit.sample(registry, 3)
    assert counts(registry) == before


def test_unknown_consent_stops_every_service(registry: Registry, tmp_path: Path) -> None:
    directions.fit(registry, "beard", "beard")
    guarded = studio.strict(registry)
    before = counts(registry)
    photo = str(studio.photo(tmp_path, "someone", 1))
    attempts: list[Any] = [
        lambda: edit.edit(guarded, "p00", {"beard": 1.0}, name="x"),
        lambda: edit.mix(guarded, ["p00", "p01"], [1, 1], name="x"),
        lambda: export.export(guarded, "p00", str(tmp_path / "out")),
        lambda: generate.generate(guarded, generate.GenerateRequest("p00", str(tmp_path / "out"))),
        lambda: invert.invert(guarded, invert.InvertRequest([photo], name="x", engine=studio.ENGINE)),
        lambda: train.train(guarded, train.TrainRequest([photo], name="x", engine=studio.ENGINE)),
    ]
    for attempt in attempts:
        with pytest.raises(ConsentDenied):
            attempt()
    # Nothing was made; what was refused is on record, and so is the file that says otherwise than the policy in force.
    assert counts(registry)[0] == before[0]
    with registry.catalog.read() as session:
        actions = list(session.scalars(select(Event.action).order_by(Event.seq)))
    assert sorted(actions[before[1] :]) == ["consent.refuse"] * 6 + ["policy.ignored"]
    assert not (tmp_path / "out").exists()


# -- invert ------------------------------------------------------------------------------------------
def test_a_photo_becomes_an_identity(registry: Registry, tmp_path: Path) -> None:
    photo = studio.photo(tmp_path, "someone", 1)
    request = invert.InvertRequest([str(photo)], engine=studio.ENGINE, labels={"beard": 1.0}, **FAST)
    (made,) = invert.invert(registry, request)
    assert made["ref"] == "someone@1"
    assert made["nearest"]["ref"].startswith("p")
    op, inputs = operation(registry, "someone")
    assert op.kind == "invert"
    assert op.seed == 0
    assert op.params["config"]["steps"] == 4
    assert set(op.models) >= {"model", "unet", "torch", "diffusers"}
    import hashlib

    assert inputs[0].digest == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert inputs[0].ref == "someone.png"
    again = invert.invert(registry, replace(request, name="twice"))[0]
    np.testing.assert_array_equal(point(registry, "someone"), point(registry, "twice"))
    assert again["loss"] == made["loss"]


def test_fewer_components_leave_the_rest_at_the_centre(registry: Registry, tmp_path: Path) -> None:
    photo = str(studio.photo(tmp_path, "a", 1))
    invert.invert(registry, invert.InvertRequest([photo], components=5, engine=studio.ENGINE, **FAST))
    assert np.abs(point(registry, "a")[:5]).min() > 0
    assert not point(registry, "a")[5:].any()


def test_emphasis_scales_the_answer_and_is_recorded(registry: Registry, tmp_path: Path) -> None:
    request = invert.InvertRequest([str(studio.photo(tmp_path, "a", 1))], engine=studio.ENGINE, **FAST)
    invert.invert(registry, replace(request, emphasis=1.0))
    invert.invert(registry, replace(request, emphasis=2.0, name="b"))
    np.testing.assert_allclose(point(registry, "b"), 2.0 * point(registry, "a"), rtol=1e-5)
    assert operation(registry, "b")[0].params["config"]["emphasis"] == 2.0
    for wrong in ({"emphasis": 0.0}, {"lr": float("nan")}, {"prior": -1.0}):
        with pytest.raises(UsageError):
            invert.invert(registry, replace(request, name="c", **wrong))


def test_a_mask_is_recorded_and_an_empty_one_refused(registry: Registry, tmp_path: Path) -> None:
    from PIL import Image

    photo = str(studio.photo(tmp_path, "a", 1))
    half = np.zeros((48, 48), np.uint8)
    Image.fromarray(half).save(tmp_path / "nothing.png")
    half[:, 24:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    request = invert.InvertRequest([photo], mask=str(tmp_path / "half.png"), engine=studio.ENGINE, **FAST)
    invert.invert(registry, request)
    assert [i.role for i in operation(registry, "a")[1]] == ["photo", "mask", "space"]
    with pytest.raises(BadImage):
        invert.invert(registry, replace(request, mask=str(tmp_path / "nothing.png"), name="b"))


def test_one_bad_photo_among_several_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    good = studio.photo(tmp_path, "good", 1)
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    before = counts(registry)
    with pytest.raises(BadImage):
        invert.invert(
            registry, invert.InvertRequest([str(good), str(tmp_path / "bad.png")], engine=studio.ENGINE, **FAST)
        )
    assert counts(registry) == before


def test_several_photos_of_one_identity_give_one(registry: Registry, tmp_path: Path) -> None:
    photos = [str(studio.photo(tmp_path, name, i)) for i, name in enumerate("abc")]
    request = invert.InvertRequest(photos, name="alice", engine=studio.ENGINE, **FAST)
    (made,) = invert.invert(registry, request)
    assert made["ref"] == "alice@1"
    assert len(set(made["photos"])) == 3
    op, inputs = operation(registry, "alice")
    assert [i.ref for i in inputs if i.role == "photo"] == ["a.png", "b.png", "c.png"]
    assert op.params["photos_together"] == 3
    # It is neither of them alone, and comes out the same again.
    alone = [invert.invert(registry, replace(request, photos=[p], name=f"only{i}")) for i, p in enumerate(photos)]
    assert len(alone) == 3
    for i in range(3):
        assert np.abs(point(registry, "alice") - point(registry, f"only{i}")).max() > 1e-4
    invert.invert(registry, replace(request, name="again"))
    np.testing.assert_array_equal(point(registry, "alice"), point(registry, "again"))


def test_one_photo_shows_one_subject(registry: Registry, tmp_path: Path) -> None:
    """Two names for what one photograph shows are at odds when they depict different people."""
    both, other = (str(studio.photo(tmp_path, name, i)) for i, name in enumerate(("both", "other")))
    for subject in ("s-1", "s-2"):
        grants.grant(registry, subject, Scope(purposes=("any",), derivatives=True))

    def found(name: str, photos: list[str], subjects: list[str], steps: int = 4) -> str | None:
        fast = {**FAST, "steps": steps}
        request = invert.InvertRequest(photos, name=name, subjects=subjects, engine=studio.ENGINE, **fast)
        return invert.invert(registry, request)[0].held

    assert found("alice", [both], ["s-1"]) is None
    assert found("alice", [both], ["s-1"], steps=6) is None
    told = found("bob", [other, both], ["s-2"])
    assert told is not None
    assert "it resembles alice@2 (another subject; by the same photo)" in told


def test_a_folder_is_inverted_batch_by_batch(registry: Registry, tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b", "c", "d", "e")):
        studio.photo(tmp_path / "faces", name, i)
    request = invert.InvertRequest([str(tmp_path / "faces")], prefix="f/", batch=2, engine=studio.ENGINE, **FAST)
    ticks: list[tuple[int, int]] = []
    made = invert.invert(registry, request, lambda done, total: ticks.append((done, total)))
    assert [m["ref"] for m in made] == [f"f/{name}@1" for name in "abcde"]
    assert ticks[-1][0] == ticks[-1][1]
    assert ticks == sorted(ticks)
    one = invert.invert(registry, replace(request, photos=[str(tmp_path / "faces" / "c.png")], prefix="g/"))
    assert one[0]["ref"] == "g/c@1"
    np.testing.assert_allclose(point(registry, "g/c"), point(registry, "f/c"), atol=1e-3)


def test_names_of_several_photos(tmp_path: Path) -> None:
    plan = invert.InvertRequest(["a/x.png", "b/y.jpg"], prefix="acme/").plan()
    assert plan == [invert.Sitting("acme/x", ("a/x.png",)), invert.Sitting("acme/y", ("b/y.jpg",))]
    together = invert.InvertRequest(["a.png", "b.png"], name="c").plan()
    assert together == [invert.Sitting("c", ("a.png", "b.png"))]
    with pytest.raises(UsageError, match="one name"):
        invert.InvertRequest(["a/x.png", "b/x.png"]).plan()


def test_the_guess_is_fitted_kept_and_used(registry: Registry, tmp_path: Path) -> None:
    for i in range(24):
        studio.photo(tmp_path / "known" / f"p{i:02d}", "only", i)
    studio.photo(tmp_path / "known" / "stranger", "only", 99)
    found = engine.fit_initializer(registry, None, studio.ENGINE, photos=str(tmp_path / "known"), components=8)
    assert (found["identities"], found["pictures"]) == (24, 24)
    photo = str(studio.photo(tmp_path, "a", 1))
    (made,) = invert.invert(registry, invert.InvertRequest([photo], engine=studio.ENGINE, **FAST))
    assert made["guessed"]
    assert operation(registry, "a")[0].params["guess"] == found["digest"]
    (plain,) = invert.invert(
        registry, invert.InvertRequest([photo], name="b", initializer=False, engine=studio.ENGINE, **FAST)
    )
    assert not plain["guessed"]
    assert not np.array_equal(point(registry, "a"), point(registry, "b"))
    with pytest.raises(UsageError):
        engine.fit_initializer(registry, None, studio.ENGINE)


# -- train -------------------------------------------------------------------------------------------
def test_a_folder_of_folders_is_trained_side_by_side(registry: Registry, tmp_path: Path) -> None:
    for who, count in (("ann", 2), ("bob", 1)):
        for i in range(count):
            studio.photo(tmp_path / "people" / who, f"{i}", hash((who, i)) % 1000)
    request = train.TrainRequest(
        [str(tmp_path / "people")], out=str(tmp_path / "out"), steps=3, samples=2, engine=studio.ENGINE
    )
    seen: list[tuple[int, int]] = []
    made = train.train(registry, request, lambda done, total: seen.append((done, total)))
    assert [row["ref"] for row in made["identities"]] == ["ann@1", "bob@1"]
    assert seen[-1] == (3, 3)
    op, inputs = operation(registry, "ann")
    assert op.kind == "train"
    assert [i.role for i in inputs] == ["photo", "photo", "space"]
    _, space = open_space(registry, None)
    written = read_lora(tmp_path / "out" / "ann").theta()
    np.testing.assert_allclose(
        space.project(space.in_gauge(written[None])[0]), point(registry, "ann"), rtol=1e-4, atol=1e-4
    )
    again = train.train(registry, request)
    assert all(row["existing"] for row in again["identities"])


def steps_after_being_killed(registry: Registry, request: train.TrainRequest, at: int) -> list[int]:
    """The steps that are left when a training that was killed is asked for again."""

    def killed(done: int, _total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(registry, request, killed)
    steps: list[int] = []
    train.train(registry, request, lambda done, _total: steps.append(done))
    return steps


def test_a_killed_training_goes_on_where_it_was(registry: Registry, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    photos = [str(studio.photo(tmp_path, f"{i}", i)) for i in range(2)]
    request = train.TrainRequest(photos, name="ann", steps=6, samples=2, engine=studio.ENGINE)

    assert steps_after_being_killed(registry, request, at=5) == [5, 6]
    train.train(registry, replace(request, name="whole", photos=photos[::-1]))
    whole = train.train(registry, replace(request, name="ann2"))
    assert whole["identities"][0]["existing"], "the resumed run gave what an unbroken one gives"
    assert not list((registry.settings.home / "training").iterdir())


def test_a_training_of_slow_steps_is_kept_by_the_clock(registry: Registry, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(training, "SAVE_AFTER", -1.0)
    request = train.TrainRequest(
        [str(studio.photo(tmp_path, "a", 1))], name="ann", steps=4, samples=2, engine=studio.ENGINE
    )

    assert steps_after_being_killed(registry, request, at=3) == [4]


def test_training_without_a_space_only_writes(registry: Registry, template: Path, tmp_path: Path) -> None:
    photo = str(studio.photo(tmp_path, "a", 1))
    base = engine.Engine(str(template / "sd1"), "cpu", "float32")
    request = train.TrainRequest(
        [photo], name="a", out=str(tmp_path / "out"), register=False, rank=2, alpha=8.0, steps=2, engine=base
    )
    before = counts(registry)
    train.train(registry, request)
    lora = read_lora(tmp_path / "out" / "a")
    assert lora.layout().rank == 2
    assert set(lora.alphas.values()) == {8.0}
    assert counts(registry) == before
    with pytest.raises(UsageError):
        train.train(registry, replace(request, out=None))


def test_prior_preservation_changes_the_result(registry: Registry, tmp_path: Path) -> None:
    photo = str(studio.photo(tmp_path, "a", 1))
    request = train.TrainRequest([photo], name="a", steps=3, samples=2, engine=studio.ENGINE)
    train.train(registry, request)
    train.train(registry, replace(request, name="b", prior=2))
    assert not np.array_equal(point(registry, "a"), point(registry, "b"))


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"photos": [], "name": None}])
def test_training_requests_must_make_sense(registry: Registry, tmp_path: Path, bad: dict[str, Any]) -> None:
    photo = str(studio.photo(tmp_path, "a", 1))
    with pytest.raises(UsageError):
        train.train(registry, replace(train.TrainRequest([photo], name="a", engine=studio.ENGINE), **bad))


# -- pictures and exports ----------------------------------------------------------------------------
def without_marks(registry: Registry, tmp_path: Path) -> None:
    """Put a policy in force under which pictures leave as they were drawn."""
    (tmp_path / "plain.toml").write_text(studio.OPEN_POLICY + "marking = false\n")
    policies.adopt(registry, tmp_path / "plain.toml")


def test_pictures_are_marked_and_known_again(registry: Registry, tmp_path: Path) -> None:
    request = generate.GenerateRequest("p00", str(tmp_path / "out"), seeds=(1,), steps=2, engine=studio.ENGINE)
    made = generate.generate(registry, request)
    for file, seed in ((made["files"][0], 1), (made["sheet"], None)):
        told = whose(registry, Path(file))
        assert (told["identity"], told["version"], told["operation"], told["seed"]) == ("p00", 1, "generate", seed)
        assert told["credentials"]["state"] == "trusted"
        assert told["ai_generated"]


def test_a_sheet_of_samples_is_marked_and_known_again(registry: Registry, tmp_path: Path) -> None:
    made = edit.sample(registry, 3, seed=3)
    refs = [row["ref"] for row in made["samples"]]
    sheet = tmp_path / "sheet.png"
    told = sample_sheet.write_sheet(registry, refs, sheet, steps=2, engine=studio.ENGINE)
    assert told == {"sheet": str(sheet), "pictures": 3}
    known = whose(registry, sheet)
    assert ([one["ref"] for one in known["shows"]], known["operation"], known["by"]) == (refs, "sample", "file")
    assert known["credentials"]["state"] == "trusted"
    with pytest.raises(OutputExists):
        sample_sheet.write_sheet(registry, refs, sheet, steps=2, engine=studio.ENGINE)


def test_pictures_say_what_they_are(registry: Registry, tmp_path: Path) -> None:
    request = generate.GenerateRequest("p00", str(tmp_path / "out"), seeds=(1, 2), steps=2, engine=studio.ENGINE)
    made = generate.generate(registry, request)
    assert [Path(f).name for f in made["files"]] == ["p00_1.png", "p00_2.png"]
    told = facts_in(made["files"][1])
    row, space = open_space(registry, None)
    assert told["ai_generated"] is True
    assert (told["identity"], told["version"], told["seed"]) == ("p00", 1, 2)
    assert told["space_digest"] == row.digest
    assert told["prompt"] == engine.PROMPT
    where = Path(space.base_model)
    assert where.is_dir()
    assert told["models"]["model"] == where.name
    for file in (*made["files"], made["sheet"]):  # nobody reads where it lies, in the credentials neither
        assert str(where.parent).encode() not in Path(file).read_bytes()
    with registry.catalog.read() as session:
        assert session.scalars(select(Event.action).order_by(Event.seq.desc())).first() == "version.generate"


def test_a_strip_has_a_picture_per_strength(registry: Registry, tmp_path: Path) -> None:
    without_marks(registry, tmp_path)
    directions.fit(registry, "beard", "beard")
    request = generate.GenerateRequest(
        "p00",
        str(tmp_path / "out"),
        seeds=(1,),
        steps=2,
        edit={"beard": 1.0},
        strengths=generate.parse_strengths("0:2:3"),
        engine=studio.ENGINE,
    )
    made = generate.generate(registry, request)
    assert [Path(f).name for f in made["files"]] == ["p00_1_+0.png", "p00_1_+1.png", "p00_1_+2.png"]
    amounts = [facts_in(f)["edit"]["beard"] for f in made["files"]]
    assert amounts == [0.0, 1.0, 2.0]
    plain = generate.generate(registry, replace(request, edit={}, strengths=(1.0,)))
    first = Path(made["files"][0]), Path(plain["files"][0])
    from PIL import Image

    with Image.open(first[0]) as a, Image.open(first[1]) as b:
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


@pytest.mark.parametrize("fmt", ["peft", "diffusers", "kohya"])
def test_an_edited_identity_is_exported_as_its_point(registry: Registry, tmp_path: Path, fmt: Any) -> None:
    directions.fit(registry, "beard", "beard")
    edit.edit(registry, "p00", {"beard": 1.0}, name="new")
    export.export(registry, "new", str(tmp_path / "out"), fmt=fmt)
    _, space = open_space(registry, None)
    lora = read_lora(tmp_path / "out")
    np.testing.assert_allclose(lora.theta(), space.reconstruct(point(registry, "new")), rtol=1e-6, atol=1e-7)
    assert set(lora.alphas.values()) == {space.layout.alpha}


def test_an_imported_identity_is_exported_as_it_came(registry: Registry, template: Path, tmp_path: Path) -> None:
    export.export(registry, "p00", str(tmp_path / "own"))
    original = read_lora(template / "loras" / "p00").theta()
    np.testing.assert_array_equal(read_lora(tmp_path / "own").theta(), original)
    export.export(registry, "p00", str(tmp_path / "point"), from_coordinates=True)
    _, space = open_space(registry, None)
    np.testing.assert_allclose(
        read_lora(tmp_path / "point").theta(), space.reconstruct(point(registry, "p00")), rtol=1e-6, atol=1e-7
    )


def test_coordinates_are_exported_bit_for_bit(registry: Registry, tmp_path: Path) -> None:
    export.export(registry, "p00", str(tmp_path), fmt="coordinates")
    value = json.loads((tmp_path / "coordinates.json").read_text())
    assert base64.b64decode(value["data"]) == point(registry, "p00").astype("<f4").tobytes()


def test_stock_diffusers_draws_what_generate_draws(registry: Registry, template: Path, tmp_path: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    without_marks(registry, tmp_path)
    request = generate.GenerateRequest("p00", str(tmp_path / "png"), seeds=(5,), steps=4, engine=studio.ENGINE)
    made = generate.generate(registry, request)
    export.export(registry, "p00", str(tmp_path / "lora"), fmt="diffusers")
    stock = StableDiffusionPipeline.from_pretrained(template / "sd1", safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(str(tmp_path / "lora"), weight_name="pytorch_lora_weights.safetensors")
    picture = stock(
        engine.PROMPT, num_inference_steps=4, generator=torch.Generator().manual_seed(5), output_type="np"
    ).images[0]
    with Image.open(made["files"][0]) as ours:
        assert np.abs(np.asarray(ours, int) - np.rint(picture * 255).astype(int)).max() <= 2


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-", "1-99999999"])
def test_seeds_must_make_sense(text: str) -> None:
    with pytest.raises(UsageError):
        generate.parse_seeds(text)


def test_seeds_and_strengths_are_read() -> None:
    assert generate.parse_seeds("1-3,7,2") == (1, 2, 3, 7)
    assert generate.parse_strengths("-1:1:3") == (-1.0, 0.0, 1.0)
    assert generate.parse_strengths("0,0.5") == (0.0, 0.5)
    for bad in ("x", "0:1:1", "0:1"):
        with pytest.raises(UsageError):
            generate.parse_strengths(bad)


# -- evaluation --------------------------------------------------------------------------------------
class Colours:
    """An identity scorer that looks at the mean colour of each quarter."""

    name = "colours"

    def embed(self, pictures: Any) -> np.ndarray:
        rows = [np.asarray(p, float).reshape(2, 16, 2, 16, 3).mean((1, 3)).ravel() - 128 for p in pictures]
        return np.stack([r / np.linalg.norm(r) for r in rows]).astype(np.float32)


SCORER = f"{__name__}:Colours"


@pytest.mark.parametrize("suite", evaluate.SUITES)
def test_every_suite_measures_and_registers_nothing(registry: Registry, tmp_path: Path, suite: str) -> None:
    directions.fit(registry, "beard", "beard")
    for i in (0, 1):
        for n in range(2):
            studio.photo(tmp_path / "photos" / f"p{i:02d}", f"{n}", 10 * i + n)
    before = counts(registry)
    photos = str(tmp_path / "photos")
    request = evaluate.EvaluateRequest(None, suite, SCORER, limit=2, seeds=(1, 2), steps=2, engine=studio.ENGINE)
    if suite == "inversion":
        request = replace(request, photos=photos)
    else:
        with pytest.raises(UsageError, match="the inversion suite"):
            evaluate.evaluate(registry, replace(request, photos=photos))
    found = evaluate.evaluate(registry, request)
    assert found["scorer"] == "colours"
    assert len(found["rows"]) >= 2
    assert all(row["low"] <= row["value"] <= row["high"] for row in found["rows"])
    assert counts(registry) == before


def test_what_cannot_be_measured_is_said(registry: Registry) -> None:
    base = evaluate.EvaluateRequest(None, "edits", SCORER, limit=2, steps=2, engine=studio.ENGINE)
    for bad in (
        base,
        replace(base, suite="inversion"),
        replace(base, suite="taste"),
        replace(base, scorer="no.such.module:scorer"),
        replace(base, scorer="os:getcwd"),
        replace(base, seeds=(1,)),
    ):
        with pytest.raises(UsageError):
            evaluate.evaluate(registry, bad)


def test_electricity_goes_from_the_meter_to_the_report(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people trained at once and one inverted, beside a processor and a card that use 2 J and 1 J a reading."""
    package = tmp_path / "powercap" / "intel-rapl:0"
    package.mkdir(parents=True)
    for file, text in (("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "0")):
        (package / file).write_text(text)
    readings = itertools.count(1)

    def card(handle: object) -> int:
        reading = next(readings)
        (package / "energy_uj").write_text(str(2_000_000 * reading))
        return 1_000 * reading

    nvml = {
        "NVMLError": OSError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda i: i,
        "nvmlDeviceGetTotalEnergyConsumption": card,
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**nvml))
    monkeypatch.setattr(energy, "POWERCAP", package.parent)
    for seed, who in enumerate(("ann", "bob")):
        studio.photo(tmp_path / "people" / who, "0", seed)
    train.train(registry, train.TrainRequest([str(tmp_path / "people")], steps=3, samples=2, engine=studio.ENGINE))
    photo = str(studio.photo(tmp_path, "cid", 3))
    invert.invert(registry, invert.InvertRequest([photo], engine=studio.ENGINE, **FAST))
    with registry.catalog.read() as session:
        told = [e.payload["energy"] for e in events(session) if "energy" in e.payload]
    assert [one["joules"] for one in told] == [1.5, 1.5, 3.0]  # the two of one batch bear half each
    assert all(one["by"] == ["nvml 0", "rapl package-0"] for one in told)
    assert roi.roi(registry, roi.Rates())["energy"]["metered_kwh"] == pytest.approx(6.0 / 3.6e6)
