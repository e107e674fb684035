"""Trainings and inversions run again on their photos, which are found by digest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy.orm.attributes import flag_modified

from tests.diffusion import tiny
from tests.services import studio
from w2w_registry.catalog.models import Coordinates, Operation
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.vectors import pack
from w2w_registry.errors import BadImage, ConsentDenied
from w2w_registry.services.provenance.replay import replay
from w2w_registry.services.provenance.replay_training import Given
from w2w_registry.services.registry import Registry, open_registry
from w2w_registry.services.synthesis import engine, invert, train
from w2w_registry.settings import load_settings

STEPS: dict[str, Any] = {"steps": 3, "samples": 2, "engine": studio.ENGINE}
WALK: dict[str, Any] = {**STEPS, "prior": 1e-4}
"""For inversions: with more of a prior the answer to a photo of noise is the start."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from w2w_registry.diffusion.pipeline import load_model

    root = tmp_path_factory.mktemp("replay")
    pipeline = tiny.build("sd1", root)
    studio.build(root, pipeline, tiny.layout(load_model(pipeline, device="cpu").unet))
    return root


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Iterator[Registry]:
    shutil.copytree(template / "home", tmp_path / "home")
    with open_registry(load_settings(tmp_path / "home", env={}, actor="curator")) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Folders of photos: ann has three, bob one, cyd two."""
    root = tmp_path / "photos"
    for seed, (who, count) in enumerate({"ann": 3, "bob": 1, "cyd": 2}.items()):
        for number in range(count):
            studio.photo(root / who, f"{who}{number}", 10 * seed + number)
    return root


def forget(registry: Registry, ref: str, *names: str) -> None:
    """The operation as an earlier version of the program recorded it."""
    with registry.catalog.write("curator") as uow:
        row = uow.session.get_one(Operation, version_for(uow.session, ref).operation_id)
        row.params = {k: v for k, v in row.params.items() if k not in names}
        row.models = {k: v for k, v in row.models.items() if k not in names}
        flag_modified(row, "params")
        uow.event("test.forget")


def test_one_of_several_trained_together_replays_alone_to_the_last_bit(registry: Registry, photos: Path) -> None:
    request = train.TrainRequest([str(photos)], prior=1, **STEPS)
    assert {e["ref"] for e in train.train(registry, request)["identities"]} == {"ann@1", "bob@1", "cyd@1"}
    for who in ("ann", "bob", "cyd"):
        result = replay(registry, who, Given([str(photos / who)]))
        assert result["outcome"] == "identical", result
        assert result["changed"] == []
    assert not list((registry.settings.home / "training").iterdir())


def test_a_training_from_a_seeded_start_replays(registry: Registry, photos: Path) -> None:
    train.train(registry, train.TrainRequest([str(photos / "ann")], init_seed=5, seed=3, **STEPS))
    assert replay(registry, "ann", Given([str(photos)]))["outcome"] == "identical"
    forget(registry, "ann", "init_seed")
    result = replay(registry, "ann", Given([str(photos)]))
    assert (result["outcome"], result["reasons"]) == (
        "impossible",
        ["recorded before trainings noted the seed of the start they were given"],
    )


def test_inversions_replay_to_the_last_bit(registry: Registry, photos: Path, tmp_path: Path) -> None:
    for number in range(24):
        studio.photo(tmp_path / "known" / f"p{number:02d}", "photo", 100 + number)
    engine.fit_initializer(registry, None, studio.ENGINE, photos=str(tmp_path / "known"))
    chosen = sorted(str(p) for p in (photos / "ann").iterdir())
    invert.invert(registry, invert.InvertRequest(chosen, seed=4, **WALK))
    for name in ("ann0", "ann1", "ann2"):
        result = replay(registry, name, Given([str(photos)]))
        assert result["outcome"] == "identical", result
    engine.fit_initializer(registry, None, studio.ENGINE, photos=str(tmp_path / "known"), prompt="another")
    result = replay(registry, "ann0", Given([str(photos)]))
    assert (result["outcome"], result["reasons"]) == (
        "impossible",
        ["its initializer was fitted again since"],
    )


def test_as_many_threads_as_then_are_used(registry: Registry, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    invert.invert(registry, invert.InvertRequest([str(photos / "bob" / "bob0.png")], **WALK))
    with registry.catalog.write("curator") as uow:
        row = uow.session.get_one(Operation, version_for(uow.session, "bob0").operation_id)
        row.models = {**row.models, "threads": "7"}
        uow.event("test.threads")
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    replay(registry, "bob0", Given([str(photos)]))
    assert used == [7, torch.get_num_threads()]


def test_a_mask_is_found_by_digest_too(registry: Registry, photos: Path, tmp_path: Path) -> None:
    half = np.zeros((48, 48), np.uint8)
    half[:, 24:] = 255
    mask = tmp_path / "half.png"
    Image.fromarray(half).save(mask)
    photo = photos / "bob" / "bob0.png"
    invert.invert(registry, invert.InvertRequest([str(photo)], mask=str(mask), components=7, **WALK))
    assert replay(registry, "bob0", Given([str(photo)], mask=str(mask)))["outcome"] == "identical"
    lacking = replay(registry, "bob0", Given([str(photo)]))
    assert lacking["outcome"] == "impossible"
    assert lacking["reasons"][0].startswith("mask half.png (sha256 ")


def test_what_is_missing_or_altered_is_named(registry: Registry, photos: Path) -> None:
    train.train(registry, train.TrainRequest([str(photos / "ann")], **STEPS))
    nothing = replay(registry, "ann", dry_run=True)
    assert not nothing["possible"]
    assert [s["missing"] is None for s in nothing["steps"]] == [False] * 3 + [True] * 5
    assert "is not kept here: say where the photos or the mask are" in nothing["steps"][0]["missing"]
    assert "outcome" not in nothing
    altered = photos / "ann" / "ann1.png"
    altered.write_bytes(altered.read_bytes() + b"x")
    (photos / "ann" / "ann2.png").rename(photos / "elsewhere.png")
    result = replay(registry, "ann", Given([str(photos)]))
    digest = nothing["steps"][1]["missing"].split("sha256 ")[1][:64]
    assert result["outcome"] == "impossible"
    assert len(result["reasons"]) == 1
    assert result["reasons"][0].startswith(
        f"photo ann1.png (sha256 {digest}) is not there: {altered} has its name but "
    )
    other = replay(registry, "ann", Given([str(photos / "bob")]), dry_run=True)
    assert other["steps"][0]["missing"].endswith("is not among the 1 files given")
    with pytest.raises(BadImage):
        replay(registry, "ann", Given([str(photos / "nowhere")]))


def test_an_older_record_says_what_it_lacks(registry: Registry, photos: Path) -> None:
    train.train(registry, train.TrainRequest([str(photos)], **STEPS))
    new = ("place_in_batch", "photos_dealt", "init_seed", "vae", "text_encoder", "unet", "threads", "hardware")
    for who in ("ann", "bob"):
        forget(registry, who, *new)
    result = replay(registry, "ann", Given([str(photos)]))
    assert result["reasons"] == ["recorded before trainings noted their place among the 3 trained together"]
    train.train(registry, train.TrainRequest([str(photos / "ann")], name="alone", seed=1, **STEPS))
    forget(registry, "alone", *new)
    assert replay(registry, "alone", Given([str(photos)]))["outcome"] == "identical"
    invert.invert(registry, invert.InvertRequest([str(photos / "bob" / "bob0.png")], **WALK))
    forget(registry, "bob0", "photos_in_batch", "place_in_batch", "threads", "hardware")
    shift(registry, "bob0", 0.5)
    result = replay(registry, "bob0", Given([str(photos)]))
    assert result["outcome"] == "different"
    assert len(result["reasons"]) == 2
    assert "rounds differently" in result["reasons"][0]
    assert "taken to be one" in result["reasons"][1]


def shift(registry: Registry, name: str, by: float) -> None:
    """Change the stored coordinates and their digest, as a forger with access to the database would."""
    with registry.catalog.write("forger") as uow:
        version = version_for(uow.session, name)
        row = uow.session.get_one(Coordinates, (version.space_id, version.id))
        row.data, row.digest = pack(np.frombuffer(row.data, "<f4") + np.float32(by))
        uow.event("forgery", {"version": version.id})


def test_what_differs_says_why(registry: Registry, photos: Path) -> None:
    invert.invert(registry, invert.InvertRequest([str(photos / "bob" / "bob0.png")], **WALK))
    halved = replay(registry, "bob0", Given([str(photos)], dtype="bfloat16"))
    assert halved["outcome"] in ("different", "equal-within-tolerance")
    assert "changed since: dtype: float32 → bfloat16" in halved["reasons"]
    shift(registry, "bob0", 0.5)
    result = replay(registry, "bob0", Given([str(photos)]))
    assert result["outcome"] == "different"
    assert result["reasons"] == ["same inputs, software and arithmetic: the record or the stored result was altered"]


def test_a_lora_altered_beyond_its_point_is_not_identical(registry: Registry, photos: Path) -> None:
    train.train(registry, train.TrainRequest([str(photos / "ann")], **STEPS))
    with registry.catalog.write("forger") as uow:
        version_for(uow.session, "ann").model_digest = "0" * 64
        uow.event("forgery")
    result = replay(registry, "ann", Given([str(photos)]))
    assert (result["outcome"], result["distance"]) == ("equal-within-tolerance", 0.0)
    assert "beyond it is not" in result["reasons"][0]


def test_another_base_model_is_told_apart(registry: Registry, photos: Path, template: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    train.train(registry, train.TrainRequest([str(photos / "ann")], **STEPS))
    moved = tmp_path / "moved"
    shutil.copytree(template / "sd1", moved)
    assert replay(registry, "ann", Given([str(photos)], pipeline=str(moved)))["outcome"] == "identical"
    pipe = StableDiffusionPipeline.from_pretrained(moved)
    next(pipe.vae.parameters()).data.add_(0.1)
    pipe.save_pretrained(moved)
    result = replay(registry, "ann", Given([str(photos)], pipeline=str(moved)))
    assert result["outcome"] == "impossible"
    assert result["reasons"][0].startswith(f"the vae of {moved} is another: ")
    gone = replay(registry, "ann", Given([str(photos)], pipeline="/no/such/pipeline"), dry_run=True)
    assert "/no/such/pipeline is gone" in gone["steps"][4]["missing"]


def test_what_consent_does_not_allow_today_is_not_run_again(registry: Registry, photos: Path) -> None:
    invert.invert(registry, invert.InvertRequest([str(photos / "bob" / "bob0.png")], **WALK))
    guarded = studio.strict(registry)
    with pytest.raises(ConsentDenied):
        replay(guarded, "bob0", Given([str(photos)]))
    assert replay(guarded, "bob0", Given([str(photos)]), dry_run=True)["possible"]
