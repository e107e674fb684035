"""Candidates: folders, nested folders, globs, links; stable, each once, with legal names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lora.loras import make_tensors
from w2w_registry.errors import BadLora
from w2w_registry.lora import discover, find_loras, read_lora, suggest_name, write_lora
from w2w_registry.records import MAX_NAME, check_name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    tensors = make_tensors()
    for name in ("p0002", "p0001"):
        write_lora(root / "loras" / name, tensors)
    write_lora(root / "deep" / "er" / "d1", tensors, fmt="diffusers")
    write_lora(root / "k1.safetensors", tensors, fmt="kohya")
    write_lora(root / "deep" / "k2", tensors, fmt="kohya")
    (root / "notes.txt").write_text("no")
    (root / ".cache").mkdir()
    (root / ".cache" / "x.safetensors").write_bytes(b"")
    (root / "deep" / "up").symlink_to(root)
    (root / "around").symlink_to(root / "around")
    return root


def test_a_tree(tree: Path) -> None:
    found = find_loras([tree])
    assert [c.name for c in found] == ["d1", "k2", "k1", "p0001", "p0002"]
    assert all(c.path.exists() for c in found)
    assert found == find_loras([tree])


def test_each_place_once(tree: Path) -> None:
    assert find_loras([tree, tree / "loras", str(tree / "k1.safetensors")]) == find_loras([tree])
    assert [c.name for c in find_loras([tree / "loras" / "p0001", tree])][:2] == ["p0001", "d1"]


def test_globs(tree: Path) -> None:
    assert [c.name for c in find_loras([f"{tree}/loras/p*"])] == ["p0001", "p0002"]
    assert [c.name for c in find_loras([f"{tree}/**/*1"])] == ["d1", "p0001"]
    (missing,) = find_loras([f"{tree}/nothing-*"])
    assert missing.path == Path(f"{tree}/nothing-*")
    literal = tree / "odd[1]"
    write_lora(literal, make_tensors())
    assert [c.path for c in find_loras([literal])] == [literal]


def test_what_holds_nothing_stays_to_be_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"x")
    paths = [tmp_path / "empty", tmp_path / "none.safetensors", tmp_path / "pickled"]
    assert [c.path for c in find_loras(paths)] == paths
    assert [c.path for c in find_loras([f"{tmp_path}/a\0b"])] == [Path(f"{tmp_path}/a\0b")]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/p0007", "p0007"),
        ("x/p0007/adapter_model.safetensors", "p0007"),
        ("x/p0007/pytorch_lora_weights.safetensors", "p0007"),
        ("x/alice v2.safetensors", "alice-v2"),
        ("x/Zoë.safetensors", "Zoë"),
        ("x/名前", "名前"),
        ("x/--odd--.safetensors", "odd"),
        ("x/@@@.safetensors", "x"),
        ("x/alice/unet", "alice"),
        ("x/alice/unet/pytorch_lora_weights.safetensors", "alice"),
        ("x/alice/checkpoint-500/pytorch_lora_weights.safetensors", "alice-checkpoint-500"),
        (f"hub/models--acme--alice-lora/snapshots/{'0a' * 20}/pytorch_lora_weights.safetensors", "acme/alice-lora"),
        ("x/weights.v1.5.safetensors", "weights.v1.5"),
        ("x/alice/lora_unet/pytorch_lora_weights.safetensors", "alice"),
        ("x/alice/last-000004.safetensors", "alice-last-000004"),
        ("x/alice/epoch10/adapter_model.safetensors", "alice-epoch10"),
        ("x/alice-000004.safetensors", "alice-000004"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert suggest_name(Path(path)) == name


@given(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=400))
def test_names_are_always_legal(text: str) -> None:
    name = suggest_name(Path("folder") / text)
    assert check_name(name) == name


def test_long_names_stay_apart() -> None:
    one, two = suggest_name(Path("a" * 300 + "1")), suggest_name(Path("a" * 300 + "2"))
    assert one != two
    assert max(len(one), len(two)) <= MAX_NAME


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["pipe/pytorch_lora_weights", "pipe/unet/diffusion_pytorch_model"], ["pipe", "pipe-unet"]),
        (["ann/lora", "ann/unet/adapter_model", "ann/final"], ["ann", "ann-lora", "ann-unet"]),
        (["a/ann/last", "b/ann/last"], ["a/ann", "b/ann"]),
    ],
)
def test_what_was_taken_out_of_a_name_tells_apart_what_else_would_not_be(
    tmp_path: Path, paths: list[str], names: list[str]
) -> None:
    for path in paths:
        write_lora(tmp_path / f"{path}.safetensors", make_tensors(), fmt="kohya")
    assert sorted(c.name for c in find_loras([tmp_path])) == names


def test_two_snapshots_of_one_repo_are_told_apart_by_their_commits(tmp_path: Path) -> None:
    for commit in ("0a" * 20, "0b" * 20):
        write_lora(tmp_path / "models--acme--alice" / "snapshots" / commit, make_tensors(), fmt="diffusers")
    assert [c.name for c in find_loras([tmp_path])] == ["acme/alice-0a0a0a0", "acme/alice-0b0b0b0"]


def test_the_caches_blobs_are_the_files_of_its_snapshots(tmp_path: Path) -> None:
    cache = tmp_path / "models--acme--alice"
    write_lora(tmp_path / "lora", make_tensors(), fmt="diffusers")
    for name in ("blobs", "snapshots/" + "0a" * 20):
        (cache / name).mkdir(parents=True)
    blob = (tmp_path / "lora" / "pytorch_lora_weights.safetensors").rename(cache / "blobs" / ("ab" * 32))
    (cache / "snapshots" / ("0a" * 20) / "pytorch_lora_weights.safetensors").symlink_to(blob)
    found, skipped = discover([cache])
    assert ([c.name for c in found], skipped) == (["acme/alice"], [])


def test_one_name_in_two_forms_of_unicode_is_two_names_with_a_mark(tmp_path: Path) -> None:
    for name in ("Zo\u00eb", "Zoe\u0308"):
        write_lora(tmp_path / f"{name}.safetensors", make_tensors(), fmt="kohya")
    names = [c.name for c in find_loras([tmp_path])]
    assert len(set(names)) == 2
    assert all(name.startswith("Zo\u00eb-") and "/" not in name for name in names)


def test_pictograms_keep_their_files_apart(tmp_path: Path) -> None:
    for name in ("😀", "😎", "zoë❤"):
        write_lora(tmp_path / f"{name}.safetensors", make_tensors(), fmt="kohya")
    names = [c.name for c in find_loras([tmp_path])]
    assert names == ["zoë-heavy-black-heart", "grinning-face", "smiling-face-with-sunglasses"]


def test_hidden_files_and_split_ones_are_named(tmp_path: Path) -> None:
    for name in (".hidden.safetensors", "adapter_model-00001-of-00002.safetensors", "x.safetensors"):
        write_lora(tmp_path / name, make_tensors(), fmt="kohya")
    found, skipped = discover([tmp_path])
    assert [c.name for c in found] == ["x"]
    assert {(s.path.name, s.reason.partition(":")[0]) for s in skipped} == {
        (".hidden.safetensors", "a hidden file"),
        ("adapter_model-00001-of-00002.safetensors", "one part of a file that was split"),
    }


def test_what_lies_in_a_hidden_folder_is_named_and_taken_when_that_is_named(tmp_path: Path) -> None:
    for name in (".trash/old/x.safetensors", "x.safetensors"):
        write_lora(tmp_path / name, make_tensors(), fmt="kohya")
    (tmp_path / ".trash" / "notes.txt").write_text("words")
    (tmp_path / ".link").symlink_to(tmp_path / ".trash")
    found, skipped = discover([tmp_path])
    assert [c.name for c in found] == ["x"]
    assert [(s.path.name, s.reason, s.cure) for s in skipped] == [
        ("x.safetensors", "in a hidden folder", "name that folder")
    ]
    assert [c.path for c in find_loras([tmp_path / ".trash"])] == [tmp_path / ".trash" / "old" / "x.safetensors"]


@pytest.mark.parametrize("ending", ["part", "partial", "filepart", "crdownload", "opdownload", "!qB", "!ut", "tmp"])
def test_what_was_not_downloaded_to_its_end_is_called_so(tmp_path: Path, ending: str) -> None:
    write_lora(tmp_path / "x.safetensors", make_tensors(), fmt="kohya")
    (tmp_path / f"y.safetensors.{ending}").write_bytes((tmp_path / "x.safetensors").read_bytes())
    _, skipped = discover([tmp_path])
    assert [s.reason for s in skipped] == ["an unfinished download"]


def test_what_may_hold_an_adapter_and_is_not_read_is_named(tmp_path: Path) -> None:
    names = (
        "pack.zip",
        "pack.7z",
        "x.gguf",
        "words.pti",
        "x.onnx",
        "flax_model.msgpack",
        "tf.h5",
        "x.safetensors.part",
        "old.bin",
        "x.npz",
        "x.tflite",
        "x.trt",
        "x.mlmodel",
        "x.safetensors.dvc",
        "x.torrent",
    )
    for name in (*names, "notes.txt", "picture.png", "my.archive", "is.renamed"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    write_lora(tmp_path / "in" / "x.safetensors", make_tensors(), fmt="kohya")
    found, skipped = discover([tmp_path])
    assert [c.name for c in found] == ["x"]
    assert {s.path.name for s in skipped} == set(names)
    assert {s.reason for s in skipped if s.cure == "unpack it first"} == {"an archive"}


def test_a_database_of_another_program_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"SQLite format 3\0" + bytes(4096))
    write_lora(tmp_path / "y.safetensors", make_tensors(), fmt="kohya")
    _, (skipped,) = discover([tmp_path])
    assert "Draw Things" in skipped.reason
    (tmp_path / "z.safetensors").write_bytes((tmp_path / "x.ckpt").read_bytes())
    for name in ("x.ckpt", "z.safetensors"):
        with pytest.raises(BadLora, match="Draw Things"):
            read_lora(tmp_path / name)


@pytest.mark.parametrize("name", ["x.bin", "x.pt", "x.ckpt", "x.pth", "x.sft", "X.SAFETENSORS"])
def test_safetensors_under_a_pickles_name_are_what_they_are(tmp_path: Path, name: str) -> None:
    write_lora(tmp_path / "x.safetensors", make_tensors(), fmt="kohya")
    (tmp_path / "x.safetensors").rename(tmp_path / name)
    found, skipped = discover([tmp_path])
    assert ([c.path.name for c in found], [c.name.lower() for c in found], skipped) == ([name], ["x"], [])
    assert read_lora(tmp_path / name).modules


@pytest.mark.parametrize("name", ["x.safetensors.bak", "x.safetensors.1", "x", "x (1)"])
def test_safetensors_under_another_ending_are_named(tmp_path: Path, name: str) -> None:
    write_lora(tmp_path / "y.safetensors", make_tensors(), fmt="kohya")
    (tmp_path / name).write_bytes((tmp_path / "y.safetensors").read_bytes())
    for other in ("README", "LICENSE", "z.safetensors.txt"):
        (tmp_path / other).write_text("words")
    found, skipped = discover([tmp_path])
    assert [c.name for c in found] == ["y"]
    assert [(s.path.name, s.reason) for s in skipped] == [(name, "a safetensors file under another ending")]


def test_what_a_training_goes_on_from_is_no_pickle_to_convert(tmp_path: Path) -> None:
    names = {"optimizer.bin", "scheduler.bin", "scaler.pt", "random_states_0.pt", "rng_state_1.pth"}
    for name in names:
        (tmp_path / "checkpoint-500" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "checkpoint-500" / name).write_bytes(b"x")
    write_lora(tmp_path / "checkpoint-500" / "pytorch_lora_weights.safetensors", make_tensors(), fmt="diffusers")
    found, skipped = discover([tmp_path])
    assert [c.path.name for c in found] == ["checkpoint-500"]
    assert {s.path.name for s in skipped} == names
    assert {(s.reason, s.cure) for s in skipped} == {("what a training goes on from, no model", None)}


def test_a_place_is_known_by_where_it_lies_not_by_a_link_to_it(tmp_path: Path) -> None:
    write_lora(tmp_path / "z" / "x.safetensors", make_tensors(), fmt="kohya")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "z" / "up").symlink_to("..")
    assert [c.path for c in discover([tmp_path])[0]] == [tmp_path / "z" / "x.safetensors"]


def test_a_link_to_a_file_that_is_there_too_is_passed_over(tmp_path: Path) -> None:
    write_lora(tmp_path / "z" / "x.safetensors", make_tensors(), fmt="kohya")
    write_lora(tmp_path / "z" / "y.safetensors", make_tensors(), fmt="kohya")
    (tmp_path / "z" / "a.safetensors").symlink_to("x.safetensors")
    found, skipped = discover([tmp_path / "z"])
    assert [c.name for c in found] == ["x", "y"]
    assert [(s.path.name, s.reason) for s in skipped] == [
        ("a.safetensors", "a link to another file here, which is taken")
    ]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "b.safetensors").symlink_to(tmp_path / "z" / "x.safetensors")
    assert [c.name for c in discover([tmp_path / "one"])[0]] == ["b"]


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "adapter_model.bin"])
def test_a_folder_of_pickles_alone_is_passed_over_unless_it_was_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / name).write_bytes(b"x")
    (tmp_path / "old" / "adapter_config.json").write_text("{}")
    write_lora(tmp_path / "x.safetensors", make_tensors(), fmt="kohya")
    found, skipped = discover([tmp_path])
    assert ([c.name for c in found], [s.path.name for s in skipped]) == (["x"], [name])
    assert [c.path for c in discover([tmp_path / "old"])[0]] == [tmp_path / "old"]


def test_the_parts_of_one_pipeline_in_folders_of_their_own_are_told_apart(tmp_path: Path) -> None:
    for part in ("unet", "text_encoder", "text_encoder_2"):
        (tmp_path / "ann" / part).mkdir(parents=True)
        (tmp_path / "ann" / part / "adapter_model.safetensors").write_bytes(b"")
    names = [one.name for one in find_loras([tmp_path])]
    assert names == ["ann-text_encoder", "ann-text_encoder_2", "ann"]
