"""From any folder to a registry: the plan says what the run does, and everything registers or is explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from tests.lora.loras import st_file
from tests.services.identities.folder import ATTENTION, make_folder, rand
from tests.services.world import BASE, World
from w2w_registry.errors import UsageError
from w2w_registry.lora import read_adapter, write_lora
from w2w_registry.lora.adapter import Adapter
from w2w_registry.lora.read import LARGEST
from w2w_registry.services.identities import browsing, intake, manage, surveying
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.identities.outcome import cause
from w2w_registry.services.identities.planned import Intake, Plan
from w2w_registry.services.recording.placement import hint_agrees
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.services.search.found import Query
from w2w_registry.services.search.groups import groups
from w2w_registry.services.search.query import search
from w2w_registry.settings import Settings
from w2w_registry.space.sketch import distance


@pytest.fixture
def bare(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    return Settings(home, f"sqlite:///{home}/catalog.db", "tester", str(home / "artifacts"))


@pytest.fixture
def empty(bare: Settings) -> Iterator[Registry]:
    init_registry(bare)
    with open_registry(bare) as registry:
        yield registry


@pytest.fixture
def folder(tmp_path: Path, world: World) -> Path:
    return make_folder(tmp_path / "folder", world)


def run(registry: Registry, *paths: Path, **options: object) -> tuple[Plan, Intake]:
    request = AddRequest([str(p) for p in paths], **options)  # type: ignore[arg-type]
    planned = intake.plan(registry, intake.survey(request), fit=True)
    return planned, intake.perform(registry, request, planned)


def count(done: Intake, status: str) -> int:
    return sum(item.status == status for item in done.items)


def test_the_plan_of_a_bare_machine_is_what_the_run_does(
    bare: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = AddRequest([str(folder)])
    before = intake.plan(None, intake.survey(request), fit=True)
    assert not bare.home.exists()
    init_registry(bare)
    with open_registry(bare) as registry:
        planned, done = run(registry, folder)
        assert before.init
        assert (planned.added, planned.existing) == (before.added, before.existing)
        assert (count(done, "added"), count(done, "existing")) == (before.added, before.existing) == (20 + 20 + 3, 4)
        assert sorted(done.fitted) == sorted(group.space or "" for group in before.fits)
        assert count(done, "failed") == 6
        assert {Path(s.path).name for s in done.skipped} == {
            "learned_embeds.safetensors",
            "vae.safetensors",
            "old.ckpt",
        }
        # Whoever is there twice is looked for in either space.
        with pytest.raises(UsageError, match="too few are in each of the spaces"):
            groups(registry)
        monkeypatch.setattr("w2w_registry.services.search.groups.LEAST", 20)
        found = groups(registry)
        assert (found.compared, found.spaces) == (40, 2)
        # Everything is there, named by what tells it apart, in its space or in none.
        lines = {line["identity"]: line for line in browsing.browse(registry)}
        assert len(lines) == 43
        assert {f"output{i}" for i in range(20)} <= set(lines)
        assert len({lines[f"output{i}"]["space"] for i in range(20)} | {None}) == 2
        assert (lines["dora"]["adapter"], lines["dora"]["space"]) == ("DoRA", None)
        assert lines["loha"]["labels"]["trigger"] == "painted"
        assert lines["loha"]["labels"]["base_hint"] == "SD 1.5"
        assert search(registry, Query("p0007"), limit=1).results[0].identity == "p0007"
        assert search(registry, Query("output3"), limit=1).results[0].identity == "output3"
        # Again: nothing new.
        again, done = run(registry, folder)
        assert (again.added, count(done, "added"), count(done, "existing")) == (0, 0, 47)
        assert not again.fits


def test_one_name_in_two_folders_is_two_identities(empty: Registry, tmp_path: Path) -> None:
    for n, place in enumerate(("ann", "ben")):
        pair = {
            f"{ATTENTION}.lora_down.weight": rand(2, 12, seed=n),
            f"{ATTENTION}.lora_up.weight": rand(16, 2, seed=n),
        }
        st_file(tmp_path / "x" / place / "sample.safetensors", pair)
    _, done = run(empty, tmp_path / "x")
    assert [item.identity for item in done.items] == ["ann/sample", "ben/sample"]


def test_one_name_in_two_commands_is_two_identities(empty: Registry, tmp_path: Path) -> None:
    for n, place in enumerate(("ann", "ben", "cleo")):
        pair = {
            f"{ATTENTION}.lora_down.weight": rand(2, 12, seed=n),
            f"{ATTENTION}.lora_up.weight": rand(16, 2, seed=n),
        }
        st_file(tmp_path / place / "sample.safetensors", pair)
    names = []
    for place in ("ann", "ben"):
        _, done = run(empty, tmp_path / place)
        names.append((done.items[0].identity, done.items[0].version))
    assert names == [("sample", 1), ("ben/sample", 1)]
    assert "with the name sample" in done.items[0].warnings[0]
    _, done = run(empty, tmp_path / "cleo", name="sample")
    assert (done.items[0].identity, done.items[0].version) == ("sample", 2)


def test_a_lora_without_a_space_is_placed_once_there_is_one(empty: Registry, world: World, tmp_path: Path) -> None:
    world.write(tmp_path / "few", range(3))
    run(empty, tmp_path / "few")
    assert manage.show(empty, "p0001")["space"] is None
    world.write(tmp_path / "many", range(20))
    _, done = run(empty, tmp_path / "many")
    assert (count(done, "added"), count(done, "existing")) == (17, 3)
    assert manage.show(empty, "p0001")["space"] == done.fitted[0]
    assert search(empty, Query("p0001"), limit=1).results[0].identity == "p0001"


def test_a_base_model_said_against_the_file_is_told(empty: Registry, world: World, tmp_path: Path) -> None:
    write_lora(tmp_path / "one", world.layout.unflatten(world.theta(0)), 4.0, base_model=BASE)
    _, done = run(empty, tmp_path / "one", base_model="other/base")
    assert any(BASE in text and "other/base" in text for text in done.items[0].warnings)


def test_another_kind_said_later_is_told(empty: Registry, world: World, tmp_path: Path) -> None:
    world.write(tmp_path / "many", range(20))
    world.write(tmp_path / "few", range(3))
    run(empty, tmp_path / "few")  # in no space
    for _ in range(2):  # the second time in a space
        _, done = run(empty, tmp_path / "few", kind="style", labels={"beard": 1.0})
        assert {item.status for item in done.items} == {"existing"}
        assert all("stays of kind person, not style" in item.warnings[0] for item in done.items)
        assert manage.show(empty, "p0001")["kind"] == "person"
        _, done = run(empty, tmp_path / "few", base_model="other/base")
        assert all("not of other/base: a version keeps" in item.warnings[0] for item in done.items)
        _, done = run(empty, tmp_path / "few", kind="person")
        assert not any(item.warnings for item in done.items)
        _, done = run(empty, tmp_path / "few")  # nothing said, nothing to tell
        assert not any(item.warnings for item in done.items)
        run(empty, tmp_path / "many")


def test_labels_given_later_update_what_is_there(empty: Registry, world: World, tmp_path: Path) -> None:
    world.write(tmp_path / "many", range(20))
    run(empty, tmp_path / "many")
    _, done = run(empty, tmp_path / "many" / "p0003", labels={"beard": 1.0})
    assert (done.items[0].status, done.items[0].updated) == ("existing", ("beard",))
    assert manage.show(empty, "p0003")["labels"]["beard"] == 1.0
    _, done = run(empty, tmp_path / "many" / "p0003", labels={"beard": 1.0})
    assert done.items[0].updated == ()


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("largest", [LARGEST, np.inf])
def test_enormous_values_fail_alone(
    empty: Registry, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: float
) -> None:
    """Whether they are refused as they are read, or only as they are placed."""
    monkeypatch.setattr("w2w_registry.lora.read.LARGEST", largest)
    world.write(tmp_path / "many", range(20))
    huge = {k: np.full_like(v, 3e38) for k, v in world.layout.unflatten(world.theta(30)).items()}
    write_lora(tmp_path / "many" / "huge", huge, 4.0, base_model=BASE)
    _, done = run(empty, tmp_path / "many")
    assert count(done, "added") == 21
    assert manage.show(empty, "huge")["space"] is None
    assert manage.show(empty, "p0003")["space"] == done.fitted[0]
    assert search(empty, Query("p0003"), limit=1).results[0].identity == "p0003"


def test_what_no_space_holds_is_exported_as_the_file_it_is(empty: Registry, folder: Path, tmp_path: Path) -> None:
    from w2w_registry.services.synthesis.export import export

    request = AddRequest([str(folder / "odd")], kind="style")
    intake.perform(empty, request, intake.plan(empty, intake.survey(request), fit=True))
    written = export(empty, "dora", str(tmp_path / "out" / "mine.safetensors"))
    assert (tmp_path / "out" / "mine.safetensors").read_bytes() == (folder / "odd" / "dora.safetensors").read_bytes()
    assert (written["format"], written["space"]) == ("original", None)


def test_the_table_of_labels_may_be_written_loosely(empty: Registry, world: World, tmp_path: Path) -> None:
    world.write(tmp_path / "few", range(3))
    (tmp_path / "labels.csv").write_text("id;beard\nP0001.safetensors;1\nnobody;0\n")
    _, done = run(empty, tmp_path / "few", labels_csv=str(tmp_path / "labels.csv"))
    assert done.unmatched == ("nobody",)
    assert manage.show(empty, "p0001")["labels"] == {"beard": 1.0}


def test_a_base_model_that_contradicts_the_file_is_said_and_kept(empty: Registry, tmp_path: Path, world: World) -> None:
    """In a space and in none."""
    run(empty, world.write(tmp_path / "first", range(20)))
    placed = world.write(tmp_path / "second", range(30, 31))
    st_file(
        tmp_path / "loha.safetensors",
        {f"{ATTENTION}.hada_w{i}_{x}": rand(*((16, 2) if x == "a" else (2, 12))) for i in (1, 2) for x in "ab"},
        {"ss_sd_model_name": "someone/other"},
    )
    _, done = run(empty, placed, tmp_path / "loha.safetensors", base_model="mine/model")
    assert count(done, "added") == 2
    for item in done.items:
        named = "someone/other" if item.path.endswith("loha.safetensors") else BASE
        assert item.warnings[0] == f"its file names {named} as base model; recorded as mine/model, as you say"
        shown = manage.show(empty, str(item.identity))
        assert (shown["base_model"], shown["operation"]["params"]["named_base_model"]) == ("mine/model", named)


def test_a_checkpoints_name_is_a_hint(empty: Registry, tmp_path: Path, world: World) -> None:
    """It keeps LoRAs of two checkpoints from one space, and finds the space of a model it is like."""
    for n, checkpoint in enumerate(("dreamyTalesV4", "realisticVisionV51")):
        for i in range(20):
            lora = world.layout.unflatten(world.theta(i, n))
            meta = {"ss_sd_model_name": f"{checkpoint}.safetensors"}
            where = tmp_path / checkpoint / f"{checkpoint}-{i}.safetensors"
            write_lora(where, lora, world.layout.alpha, fmt="kohya", metadata=meta)
    planned, _ = run(empty, tmp_path)
    assert {group.space for group in planned.fits} == {"dreamytalesv4-r1@1", "realisticvisionv51-r1@1"}
    assert [group.to_json()["base_hints"] for group in planned.fits] == [["dreamyTalesV4"], ["realisticVisionV51"]]


@pytest.mark.parametrize(
    ("hint", "base", "agrees"),
    [
        ("realisticVisionV51_v51VAE", "SG161222/Realistic_Vision_V5.1", True),
        ("realisticVisionV51", "SG161222/Realistic_Vision_V5.1_noVAE", True),
        ("dreamshaper_8", "Lykon/dreamshaper-8", True),
        ("sd", "stable/sd", False),
        (None, "a/bbbb", False),
    ],
)
def test_which_model_a_checkpoints_name_is_like(hint: str | None, base: str, agrees: bool) -> None:
    assert hint_agrees(hint, base) is agrees


def test_names_that_look_alike_are_said(empty: Registry, tmp_path: Path) -> None:
    for n, name in enumerate(("Zoë", "ZOË", "zoe\u0308")):
        pair = {f"{ATTENTION}.lora_down.weight": rand(2, 12, seed=n), f"{ATTENTION}.lora_up.weight": rand(16, 2)}
        _, done = run(empty, st_file(tmp_path / str(n) / f"{name}.safetensors", pair))
    assert "is not ZOË or Zoë, whose name differs only in case" in done.items[0].warnings[0]
    assert {row["identity"] for row in browsing.browse(empty)} == {"Zoë", "ZOË", "zoë"}


def test_language_models_are_passed_over_by_name(empty: Registry, tmp_path: Path, world: World) -> None:
    pair = {
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": rand(2, 12),
        "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": rand(16, 2),
    }
    st_file(tmp_path / "llm.safetensors", pair)
    planned, done = run(empty, world.write(tmp_path / "p", range(2)), tmp_path)
    assert (count(done, "failed"), done.exit_code) == (0, 0)
    assert [s.reason for s in done.skipped] == [s.reason for s in planned.survey.skipped]
    assert done.skipped[0].reason == "an adapter of a language model"
    assert cause("a.b_0 has an alpha (as x)") == cause("c.d_1 has an alpha (as y)")


def test_the_plan_knows_a_model_under_other_factors(empty: Registry, world: World, tmp_path: Path) -> None:
    """Scaled factors, in one folder and later: the plan counts what the run registers, and names it."""
    world.write(tmp_path / "in", range(20))
    for i in range(3):
        tensors = {
            k: v * np.float32(4.0 if k[1] == "A" else 0.25) for k, v in world.layout.unflatten(world.theta(i)).items()
        }
        write_lora(tmp_path / "in" / f"scaled{i}", tensors, world.layout.alpha, base_model=BASE)
    for added, existing in ((20, 3), (0, 23)):
        planned, done = run(empty, tmp_path / "in")
        assert (planned.added, planned.existing) == (count(done, "added"), count(done, "existing")) == (added, existing)
        foreseen = {(item.path, item.status, item.identity) for item in planned.items}
        assert foreseen == {(item.path, item.status, item.identity) for item in done.items}


def test_another_kind_of_adapter_is_known_again(empty: Registry, tmp_path: Path) -> None:
    """A LoHa with its factors scaled, and rounded to fp16."""
    loha = {
        f"{ATTENTION}.hada_w{i}_{x}": rand(*((16, 2) if x == "a" else (2, 12)), seed=i) for i in (1, 2) for x in "ab"
    }
    scaled = {
        k: v * np.float32(2.0 if k.endswith("w1_a") else 0.5 if k.endswith("w1_b") else 1) for k, v in loha.items()
    }
    run(empty, st_file(tmp_path / "one.safetensors", loha))
    for n, copy in enumerate((scaled, {k: v.astype(np.float16) for k, v in loha.items()})):
        planned, done = run(empty, st_file(tmp_path / f"copy{n}.safetensors", copy))
        assert (planned.existing, count(done, "existing"), done.items[0].identity) == (1, 1, "one")


def test_a_text_encoders_share_tells_two_apart_in_no_space_too(empty: Registry, tmp_path: Path) -> None:
    """One denoiser with two text encoders' shares is two models; one of them rounded to fp16 is the first again."""
    pair = {f"{ATTENTION}.lora_down.weight": rand(2, 12), f"{ATTENTION}.lora_up.weight": rand(16, 2)}

    def text(seed: int) -> dict[str, np.ndarray]:
        stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
        return {f"{stem}.lora_down.weight": rand(2, 12, seed=seed), f"{stem}.lora_up.weight": rand(16, 2, seed=seed)}

    for name, state in (("a", {**pair, **text(1)}), ("b", {**pair, **text(2)}), ("c", pair)):
        planned, done = run(empty, st_file(tmp_path / f"{name}.safetensors", state))
        assert (planned.added, count(done, "added")) == (1, 1)
    half = {k: v.astype(np.float16) for k, v in {**pair, **text(2)}.items()}
    planned, done = run(empty, st_file(tmp_path / "half.safetensors", half))
    assert (planned.existing, done.items[0].status, done.items[0].identity) == (1, "existing", "b")


def test_of_the_same_bytes_those_with_their_settings_are_registered(empty: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    stem = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"{stem}.lora_A.weight": rand(2, 12), f"{stem}.lora_B.weight": rand(16, 2)}
    st_file(folder / "a copy.safetensors", state)
    st_file(folder / "zoe" / "adapter_model.safetensors", state)
    (folder / "zoe" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 16}))
    _, done = run(empty, folder)
    new, old = sorted(done.items, key=lambda item: item.status)
    assert (new.identity, new.status, old.status) == ("zoe", "added", "existing")
    assert old.warnings[0].startswith("the same tensors are there already; its settings (alpha) make its change 0.125 ")
    _, again = run(empty, folder)  # in another run, too
    (copy,) = (item for item in again.items if "copy" in item.path)
    assert "0.125 times" in copy.warnings[0]


def test_files_of_one_training_share_their_layout_while_they_are_looked_through(loras: Path) -> None:
    seen = intake.survey(AddRequest([str(loras)])).seen
    assert len(seen) > 1
    assert {id(one.layout) for one in seen} == {id(seen[0].layout)}
    assert seen[0].layout is not None


def test_the_numbers_of_a_file_are_held_against_the_largest_allowed_all_at_once(
    loras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer by layer only where one number of the file, of whatever layer, is too large."""
    asked: list[Path] = []
    look = Adapter.__dict__["largest"].func

    def counted(adapter: Adapter) -> float:
        asked.append(adapter.path)
        return float(look(adapter))

    once = cached_property(counted)
    once.__set_name__(Adapter, "largest")
    monkeypatch.setattr(Adapter, "largest", once)
    large = {f"{ATTENTION}.lora_down.weight": rand(2, 12), f"{ATTENTION}.lora_up.weight": -2e9 * rand(16, 2)}
    file = st_file(tmp_path / "large.safetensors", large)
    seen = intake.survey(AddRequest([str(loras), str(file)])).seen
    assert len(seen) > 1
    assert asked == [file]
    assert [one.candidate.path for one in seen if one.layout is None] == [file]
    first = read_adapter(seen[0].candidate.path)
    numbers = [abs(float(n)) for change in first.changes for t in change.tensors.values() for n in t.flat]
    assert max(numbers) == first.largest <= first.at_most


def test_files_looked_at_together_are_seen_as_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = AddRequest([str(folder)])
    together = intake.survey(request)
    monkeypatch.setattr(surveying, "_AT_ONCE", 1)
    alone = intake.survey(request)
    assert together.failed
    assert [(i.path, str(i.error)) for i in together.failed] == [(i.path, str(i.error)) for i in alone.failed]
    assert [(s.path, s.reason) for s in together.skipped] == [(s.path, s.reason) for s in alone.skipped]
    assert len({one.layout for one in together.seen}) > 1
    for one, other in zip(together.seen, alone.seen, strict=True):
        assert (one.candidate, one.model, one.digests) == (other.candidate, other.model, other.digests)
        assert (one.sketch is None) == (other.sketch is None)
        if one.sketch is not None and other.sketch is not None:
            assert distance(one.sketch, other.sketch) < 1e-6
