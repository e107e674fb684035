"""The mini world is what it says: whole, deterministic, and its LoRAs draw who they should."""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.miniworld import identities as people
from examples.miniworld import unpack as store
from examples.miniworld.render import render
from examples.miniworld.world import (
    ATTRIBUTES,
    BINARY,
    CONTINUOUS,
    MAX_PHRASES,
    caption,
    latin_hypercube,
    phrases,
    sample_attributes,
    sample_nuisances,
    vocabulary,
)
from w2w_registry.lora import read_lora

COUNT = 26


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniworld")
    store.unpack(folder, loras=COUNT)
    return folder


def test_renders_the_same_pixels_in_any_batch() -> None:
    attributes, nuisances = sample_attributes(20, 5), sample_nuisances(20, 5)
    whole = render(attributes, nuisances)
    assert whole.shape == (20, 32, 32, 3)
    assert whole.dtype == np.uint8
    alone = np.concatenate([render(attributes[i : i + 1], nuisances[i : i + 1]) for i in range(20)])
    assert (whole == alone).all()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_changes_the_picture(name: str) -> None:
    attributes = np.full((2, len(ATTRIBUTES)), 0.5, np.float32)
    attributes[:, len(CONTINUOUS) :] = 0.0
    attributes[0, ATTRIBUTES.index(name)], attributes[1, ATTRIBUTES.index(name)] = 0.0, 1.0
    first, second = render(attributes, np.zeros((2, len(sample_nuisances(1, 0)[0])), np.float32)).astype(int)
    assert (np.abs(first - second).max(axis=2) > 20).sum() >= 6


def test_attributes_and_photo_sessions_are_stratified() -> None:
    points = latin_hypercube(50, 4, np.random.default_rng(0))
    assert (np.sort(np.floor(points * 50), axis=0) == np.arange(50)[:, None]).all()
    attributes = sample_attributes(1000, 3)
    assert attributes[:, len(CONTINUOUS) :].mean(axis=0) == pytest.approx([b.rate for b in BINARY], abs=0.002)
    assert (sample_nuisances(12, (1, 2)) == sample_nuisances(12, (1, 2))).all()
    assert not (sample_nuisances(12, (1, 2)) == sample_nuisances(12, (1, 3))).any()


def test_captions_are_true_and_within_the_vocabulary() -> None:
    rng, words = np.random.default_rng(1), set(vocabulary())
    for attributes in sample_attributes(200, 9):
        text = caption(attributes, rng)
        said = text.partition(" with ")[2]
        assert set(text.replace(",", "").split()) <= words
        assert sum(phrase in said for phrase in phrases(attributes)) >= bool(said)
        assert said.count(",") < MAX_PHRASES


def test_digests_hold_and_damage_is_noticed(tmp_path: Path) -> None:
    digests = store.verify()
    on_disk = {p.relative_to(store.DATA).as_posix() for p in store.DATA.rglob("*") if p.is_file()}
    assert set(digests) == on_disk - {"digests.json"}
    copy = tmp_path / "data"
    shutil.copytree(store.DATA, copy)
    with (copy / "readers.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(store.Damaged, match=r"readers\.safetensors"):
        store.verify(copy)


def test_data_stays_small() -> None:
    assert sum(p.stat().st_size for p in store.DATA.rglob("*") if p.is_file()) < 35e6


def test_unpacks_what_it_says(out: Path) -> None:
    assert len(list((out / "loras").iterdir())) == COUNT
    assert len(list((out / "heldout").iterdir())) == people.HELDOUT
    assert len(list((out / "retrained").iterdir())) == COUNT
    assert len(list((out / "photos").iterdir())) == COUNT + people.HELDOUT
    assert (out / "pipeline" / "model_index.json").exists()
    with (out / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows[:2]] == ["p0000", "p0001"]
    assert [row["split"] for row in rows].count("fit") == people.FIT >= 1000
    assert [row["split"] for row in rows].count("heldout") == people.HELDOUT
    truth = people.attributes()
    read = np.array([[float(row[name]) for name in ATTRIBUTES] for row in rows])
    assert np.allclose(read, truth, atol=1e-5)
    first = np.asarray(Image.open(out / "photos" / "p0003" / "04.png"))
    assert (first == people.photo_set(3, truth[3])[4]).all()


def test_unpacks_the_same_bytes_twice(out: Path, tmp_path: Path) -> None:
    store.unpack(tmp_path, loras=2, photos=False)

    def digest(folder: Path) -> list[str]:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]

    assert digest(tmp_path / "loras" / "p0001") == digest(out / "loras" / "p0001")
    assert not (tmp_path / "photos").exists()


def test_every_form_holds_the_same_lora(out: Path) -> None:
    stored = store.load_loras()
    for index in (0, 7, 23):
        name = people.identity_id(index)
        for path in (
            out / "loras" / name,
            out / "formats" / "diffusers" / name,
            out / "formats" / "kohya" / f"{name}.safetensors",
        ):
            lora = read_lora(path)
            assert lora.layout().digest == stored.layout.digest
            assert (lora.theta() == stored.theta[index]).all()


def test_enough_identities_that_all_differ() -> None:
    stored = store.load_loras()
    assert len(stored.theta) == people.FIT + people.HELDOUT >= 1050
    assert len(stored.retrained) >= 208
    assert stored.layout.rank == 1
    assert np.isfinite(stored.theta).all()
    assert len(np.unique(stored.theta[:, -64:], axis=0)) == len(stored.theta)


def test_unpacking_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import examples.miniworld.unpack as u;"
        "assert u.load_loras().theta.shape[0] > 1000"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_help_is_there() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "examples.miniworld.unpack", "--help"]
    shown = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert "--no-photos" in shown
