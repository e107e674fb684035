"""``add``: what is new, what is there already under another file, and what cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.services.world import BASE, World, tiny_layout
from w2w_registry.catalog.models import Operation, SourceFile, Version
from w2w_registry.errors import BadFile, NotFound, UsageError
from w2w_registry.lora import write_lora
from w2w_registry.services.identities.browsing import browse
from w2w_registry.services.identities.ingest import AddReport, AddRequest, add
from w2w_registry.services.identities.manage import set_alias, set_tags, show
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import fit_space


@pytest.fixture
def fitted(registry: Registry, loras: Path) -> Registry:
    fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    return registry


def put(registry: Registry, *paths: Path, **options: object) -> AddReport:
    return add(registry, AddRequest([str(p) for p in paths], **options))  # type: ignore[arg-type]


def test_adding_a_folder_and_adding_it_again(fitted: Registry, loras: Path) -> None:
    first = put(fitted, loras)
    assert [i.status for i in first.items] == ["added"] * 80
    assert first.exit_code == 0
    with fitted.catalog.read() as session:
        events = session.query(Version).count()
    again = put(fitted, loras)
    assert [i.status for i in again.items] == ["existing"] * 80
    assert again.exit_code == 0
    with fitted.catalog.read() as session:
        assert session.query(Version).count() == events
        operation = session.query(Operation).filter_by(kind="import").first()
        assert operation is not None
        assert operation.agent == "curator"


@pytest.mark.parametrize("fmt", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_resaved_lora_is_the_same_model(
    fitted: Registry, loras: Path, world: World, tmp_path: Path, fmt: str, dtype: str
) -> None:
    put(fitted, loras / "p0003", loras / "p0004")
    out = tmp_path / f"copy-{fmt}-{dtype}"
    tensors = dict(reversed(list(world.layout.unflatten(world.theta(3)).items())))
    write_lora(out, tensors, world.layout.alpha, fmt=fmt, dtype=dtype, metadata={"note": "again"})  # type: ignore[arg-type]
    item = put(fitted, out).items[0]
    assert (item.status, item.identity, item.version) == ("existing", "p0003", 1)
    # Seen once, its bytes are known.
    assert put(fitted, out).items[0].same_model is None


def test_the_original_of_a_rounded_copy_is_the_same_model(fitted: Registry, world: World, tmp_path: Path) -> None:
    tensors = world.layout.unflatten(world.theta(5))
    write_lora(tmp_path / "half", tensors, world.layout.alpha, dtype="fp16", base_model=BASE)
    write_lora(tmp_path / "brain", tensors, world.layout.alpha, dtype="bf16", base_model=BASE)
    write_lora(tmp_path / "full", tensors, world.layout.alpha, base_model=BASE)
    assert put(fitted, tmp_path / "half").items[0].status == "added"
    assert put(fitted, tmp_path / "full").items[0].identity == "half"
    assert put(fitted, tmp_path / "brain").items[0].identity == "half"


def test_a_retrained_lora_is_another_model(fitted: Registry, loras: Path, retrained: Path) -> None:
    put(fitted, loras / "p0003")
    item = put(fitted, retrained / "p0003").items[0]
    assert (item.status, item.version) == ("added", 2)
    other = put(fitted, retrained / "p0003", name="someone-else").items[0]
    assert (other.status, other.identity) == ("existing", "p0003")


def test_one_who_resembles_another_subject_is_held(fitted: Registry, loras: Path, retrained: Path) -> None:
    put(fitted, loras / "p0003", subjects=("s-3",))
    item = put(fitted, retrained / "p0003", name="borrowed", subjects=("s-99",)).items[0]
    assert (item.status, item.held) == ("added", True)
    assert "resembles p0003@1 (another subject" in item.warnings[0]
    assert "w2w-reg resolve borrowed --same-as p0003 --reason TEXT" in item.warnings[0]
    unrelated = put(fitted, loras / "p0010", subjects=("s-10",)).items[0]
    assert not unrelated.held
    assert not any("resembles" in w for w in unrelated.warnings)


def test_the_gravest_is_told_first(fitted: Registry, loras: Path, world: World, tmp_path: Path) -> None:
    put(fitted, loras / "p0003", subjects=("s-3",))
    write_lora(tmp_path / "x", world.layout.unflatten(world.theta(3, 1)), world.layout.alpha)  # names no base model
    (item,) = put(fitted, tmp_path / "x", subjects=("s-99",)).items
    assert len(item.warnings) > 1
    assert "resembles p0003@1" in item.warnings[0]


def test_a_new_version_that_does_not_look_like_the_old_one_is_told(fitted: Registry, loras: Path) -> None:
    put(fitted, loras / "p0003", name="alice")
    item = put(fitted, loras / "p0011", name="alice").items[0]
    assert item.version == 2
    assert any("does not look like the versions before" in w for w in item.warnings)


def test_a_stranger_of_the_same_file_name_is_no_version_of_it(
    fitted: Registry, loras: Path, world: World, tmp_path: Path
) -> None:
    put(fitted, loras / "p0003")
    for place, person in (("ann", 11), ("ben", 12)):
        where = tmp_path / place / "p0003"
        write_lora(where, world.layout.unflatten(world.theta(person)), world.layout.alpha, base_model=BASE)
        foreseen = put(fitted, where, dry_run=True).items[0]
        item = put(fitted, where).items[0]
        assert (item.status, item.identity, item.version) == ("added", f"{place}/p0003", 1)
        assert (foreseen.identity, foreseen.version, foreseen.warnings) == (item.identity, 1, item.warnings)
        assert any("with the name p0003" in text for text in item.warnings)
        assert not any("look like" in text for text in item.warnings)
    # One who looks like the stranger is the stranger's next version.
    again = tmp_path / "again" / "ann" / "p0003"
    write_lora(again, world.layout.unflatten(world.theta(11, 1)), world.layout.alpha, base_model=BASE)
    item = put(fitted, again).items[0]
    assert (item.identity, item.version) == ("ann/p0003", 2)
    # What the user says is taken at their word: a name, or a subject.
    assert put(fitted, tmp_path / "ann" / "p0003", name="p0003").items[0].identity == "ann/p0003"  # already there
    other = tmp_path / "cleo" / "p0003"
    write_lora(other, world.layout.unflatten(world.theta(13)), world.layout.alpha, base_model=BASE)
    assert put(fitted, other, name="p0003").items[0].version == 2


def test_a_decomposed_name_is_found_under_either_form(fitted: Registry, loras: Path) -> None:
    composed, decomposed = "jos\u00e9", "jose\u0301"
    (item,) = put(fitted, loras / "p0003", name=decomposed).items
    assert (item.identity, item.version) == (composed, 1)
    (other,) = put(fitted, loras / "p0005", prefix=decomposed + "/").items
    assert other.identity == f"{composed}/p0005"
    for form in (composed, decomposed):
        assert show(fitted, form)["identity"] == composed
        assert show(fitted, f"{form}/p0005@1")["identity"] == f"{composed}/p0005"
        assert search(fitted, form, limit=1).results[0].identity == composed
    set_alias(fitted, "production", decomposed)
    set_tags(fitted, decomposed, ["team=ads"])
    assert show(fitted, f"{decomposed}@production")["tags"] == {"team": "ads"}


def test_the_same_subject_makes_it_a_version(fitted: Registry, loras: Path, world: World, tmp_path: Path) -> None:
    put(fitted, loras / "p0003", subjects=("s-3",))
    where = tmp_path / "p0003"
    write_lora(where, world.layout.unflatten(world.theta(11)), world.layout.alpha, base_model=BASE)
    item = put(fitted, where, subjects=("s-3",)).items[0]
    assert (item.identity, item.version) == ("p0003", 2)
    assert any("does not look like the versions before" in text for text in item.warnings)


def test_found_right_after_adding(fitted: Registry, loras: Path) -> None:
    put(fitted, *(loras / f"p{i:04d}" for i in range(70)))
    assert search(fitted, "p0001").results[0].identity == "p0001"
    put(fitted, loras / "p0075")
    assert search(fitted, str(loras / "p0075")).results[0].identity == "p0075"


def test_bad_files_are_told_one_by_one_and_the_good_ones_added(
    fitted: Registry, loras: Path, world: World, tmp_path: Path
) -> None:
    good = loras / "p0001"
    data = (good / "adapter_model.safetensors").read_bytes()
    bad = {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "huge-header": (10**15).to_bytes(8, "little") + b"{}",
        "text": b"not a LoRA at all",
    }
    for name, content in bad.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    nan = world.layout.unflatten(world.theta(1))
    nan[next(iter(nan))][0, 0] = float("nan")
    from safetensors.numpy import save_file

    save_file(
        {f"base_model.model.{m}.lora_{f}.weight": a.copy() for (m, f), a in nan.items()},
        str(tmp_path / "nan.safetensors"),
    )
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "void").mkdir()
    wide = tiny_layout(rank=1)
    other = {k: (a if k[1] == "B" else a.repeat(2, axis=1)) for k, a in wide.unflatten(world.theta(2)).items()}
    write_lora(tmp_path / "wide", other, 4.0, base_model=BASE)
    write_lora(tmp_path / "elsewhere", world.layout.unflatten(world.theta(2)), 4.0, base_model="other/model")
    long = tmp_path / ("n" * 240 + ".safetensors")
    long.write_bytes(data)
    named = [*(tmp_path / f"{n}.safetensors" for n in bad), *(tmp_path / n for n in ("pickle.pt", "nan.safetensors"))]
    named += [tmp_path / n for n in ("loop", "void", "wide", "elsewhere", "missing", "x" * 10_000)]
    report = put(fitted, *named, good)
    failed = {Path(i.path).name[:20]: i for i in report.items if i.status == "failed"}
    assert len(failed) == len(named)
    assert all(i.error is not None for i in failed.values())
    assert report.items[-1].status == "added"
    assert report.exit_code == 5
    assert [row["identity"] for row in browse(fitted)] == ["p0001"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(fitted: Registry, loras: Path, tmp_path: Path) -> None:
    file = tmp_path / "secret.safetensors"
    file.write_bytes((loras / "p0001" / "adapter_model.safetensors").read_bytes())
    file.chmod(0)
    assert put(fitted, file).items[0].status == "failed"


def test_names_from_files_and_clashes_between_them(fitted: Registry, loras: Path, world: World, tmp_path: Path) -> None:
    for folder, i in (("a", 1), ("b", 2)):
        write_lora(tmp_path / folder / "same", world.layout.unflatten(world.theta(i)), 4.0, base_model=BASE)
    report = put(fitted, tmp_path)
    assert [(i.status, i.identity) for i in report.items] == [("added", "a/same"), ("added", "b/same")]
    write_lora(tmp_path / "ünï 日本", world.layout.unflatten(world.theta(6)), 4.0, base_model=BASE)
    assert put(fitted, tmp_path / "ünï 日本", prefix="acme/").items[0].identity == "acme/ünï-日本"
    with pytest.raises(UsageError):
        put(fitted, loras, name="one-name-for-many")


def test_labels_from_csv_and_options(fitted: Registry, loras: Path, tmp_path: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text("id,beard,note\np0001,1,with hat\np0002,0,\n", "utf-8")
    put(fitted, loras / "p0001", loras / "p0002", labels_csv=str(csv), labels={"source": "test"})
    assert show(fitted, "p0001")["labels"] == {"beard": 1.0, "note": "with hat", "source": "test"}
    assert [r["identity"] for r in browse(fitted, where="beard > 0.5")] == ["p0001"]
    with pytest.raises(BadFile):
        put(fitted, loras / "p0003", labels_csv=str(tmp_path / "none.csv"))


def test_another_rank_and_alpha_are_brought_to_the_space(
    fitted: Registry, loras: Path, world: World, tmp_path: Path
) -> None:
    put(fitted, loras / "p0007", loras / "p0008")
    tensors = world.layout.unflatten(world.theta(7))
    write_lora(tmp_path / "doubled", {k: a if k[1] == "A" else a * 2 for k, a in tensors.items()}, 2.0, base_model=BASE)
    assert put(fitted, tmp_path / "doubled").items[0].identity == "p0007"


def test_dry_run_changes_nothing(fitted: Registry, loras: Path) -> None:
    report = put(fitted, loras, dry_run=True)
    assert {i.status for i in report.items} == {"added"}
    assert browse(fitted) == []
    assert list(fitted.artifacts.digests()) == [fitted_artifact(fitted)]


def fitted_artifact(registry: Registry) -> str:
    from w2w_registry.services.recording.spaces import open_space

    return open_space(registry, None)[0].artifact_digest


def test_no_space_yet(registry: Registry, loras: Path) -> None:
    with pytest.raises(NotFound):
        put(registry, loras)


def test_two_spaces_hold_one_version(fitted: Registry, loras: Path) -> None:
    put(fitted, loras / "p0001")
    fit_space(fitted, "smaller", [str(loras)], base_model=BASE, components=4)
    item = put(fitted, loras / "p0001", space="smaller").items[0]
    assert (item.status, item.version) == ("existing", 1)
    assert search(fitted, "p0001", space="smaller").results[0].identity == "p0001"
    assert search(fitted, "p0001", space="tiny").results[0].identity == "p0001"


def test_one_source_file_row_per_content(fitted: Registry, loras: Path) -> None:
    put(fitted, loras / "p0001")
    put(fitted, loras / "p0001")
    with fitted.catalog.read() as session:
        assert session.query(SourceFile).count() == 1


def test_a_subject_named_later_is_added_to_what_is_there(fitted: Registry, loras: Path) -> None:
    put(fitted, loras / "p0001")
    assert show(fitted, "p0001")["subjects"] == []
    assert put(fitted, loras / "p0001", subjects=("s-1",)).items[0].status == "existing"
    assert show(fitted, "p0001")["subjects"] == ["s-1"]
    put(fitted, loras / "p0001", subjects=("s-1", "s-2"))
    assert show(fitted, "p0001")["subjects"] == ["s-1", "s-2"]
