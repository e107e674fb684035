"""Insiders who cheat at the prompt: whatever one person alone types, alice does not leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.services.world import BASE, make_world
from w2w_registry.lora import write_lora

ALICE = 3


@pytest.fixture
def again(tmp_path: Path) -> Iterator[Path]:
    """Alice, trained again from other photos: five files, since one that was tried is known."""
    world = make_world(50)
    for training in range(1, 6):
        theta = world.theta(ALICE, training)
        write_lora(tmp_path / f"again{training}", world.layout.unflatten(theta), world.layout.alpha, base_model=BASE)
    return tmp_path  # type: ignore[return-value]


@pytest.fixture
def team(filled: Run, loras: Path, tmp_path: Path) -> Run:
    """Alice is named, as two people say, and agreed to research; mallory agreed to everything of his own."""
    form = tmp_path / "form.txt"
    form.write_text("signed")
    assert filled("--actor", "olga", "add", loras / "p0003", "--subject", "s-alice", "--evidence", form)[0] == 0
    assert filled("--actor", "olga", "consent", "grant", "s-alice", "--purpose", "research", "--use", "search")[0] == 0
    assert mallory(filled, "consent", "grant", "s-mallory", "--purpose", "any", "--publication")[0] == 0
    return filled


def mallory(run: Run, *args: str | Path) -> tuple[int, str, str]:
    return run("--actor", "mallory", *args)


def out(run: Run, name: str, tmp_path: Path) -> bool:
    """Whether it goes out, for mallory; a refusal says why and what to type, in one line."""
    code, _, err = mallory(run, "export", name, tmp_path / "out", "--force")
    if code != 0:
        assert code == 4, err
        assert err.count("\n") == 1
    return code == 0


@pytest.mark.parametrize("claim", ["--kind=style", "--kind=product", "--subject=s-mallory", "--subject=s-new", ""])
def test_whatever_alice_is_called(team: Run, again: Path, tmp_path: Path, claim: str) -> None:
    said = [claim] if claim else []
    code, _, err = mallory(team, "add", again / "again1", "--name", "mine", *said)
    assert (code, "held: it resembles p0003@1" in err) == (0, True)
    assert not out(team, "mine", tmp_path)
    # Not under another name, alias or version, nor removed and brought back.
    assert mallory(team, "rename", "mine", "yours")[0] == 0
    assert mallory(team, "alias", "set", "production", "yours")[0] == 4
    assert not out(team, "yours", tmp_path)
    assert mallory(team, "remove", "yours", "--yes")[0] == 0
    mallory(team, "add", again / "again1", "--name", "third", *said)
    assert not out(team, "third", tmp_path)
    # Nor decided by whoever added it, nor after changing the rules alone.
    assert mallory(team, "resolve", "third", "--distinct", "--reason", "mine")[0] == 4
    assert mallory(team, "policy", "set", "second_person=false")[0] == 4
    assert mallory(team, "policy", "set", "second_person=false")[0] == 4
    assert mallory(team, "policy", "set", 'unknown=["register","search","export"]')[0] == 4
    assert not out(team, "third", tmp_path)


def test_through_another_space_or_what_is_made(team: Run, again: Path, loras: Path, tmp_path: Path) -> None:
    others = [loras / f"p{i:04d}" for i in range(10, 50)]
    assert mallory(team, "space", "fit", "others", *others, "--base-model", BASE)[0] == 0
    _, _, err = mallory(team, "add", again / "again1", "--space", "others", "--name", "a", "--subject", "s-mallory")
    assert "held" in err, err
    assert not out(team, "a", tmp_path)
    # Held is no source; a mixture of alice has alice upstream.
    form = tmp_path / "form.txt"
    mallory(team, "add", loras / "p0005", "--subject", "s-mallory", "--evidence", form)
    assert mallory(team, "mix", "a", "p0005", "--weight", "0.999", "--name", "b")[0] == 4
    assert mallory(team, "mix", "p0003", "p0005", "--weight", "0.999", "--name", "b")[0] in (2, 4)
    assert mallory(team, "edit", "a", "--edit", "x=+1", "--name", "c")[0] in (3, 4)
    assert mallory(team, "generate", "a", "--prompt", "x", "--out", tmp_path / "pictures")[0] in (4, 8)
    # As the next version of somebody else.
    _, _, err = mallory(team, "add", again / "again2", "--name", "p0005", "--subject", "s-mallory")
    assert "held" in err, err
    assert not out(team, "p0005@2", tmp_path)


def test_after_a_withdrawal(team: Run, again: Path, loras: Path, tmp_path: Path) -> None:
    assert team("--actor", "olga", "consent", "withdraw", "S-Alice")[0] == 0
    for number, claim in enumerate(("--kind=style", "--subject=s-mallory"), start=1):
        mallory(team, "add", again / f"again{number}", "--name", f"x{number}", claim)
        assert not _there(team, f"x{number}") or not out(team, f"x{number}", tmp_path)
    # Alice does not agree again because mallory says so, once or twice.
    for _ in range(2):
        assert mallory(team, "consent", "grant", "s-alice", "--purpose", "any", "--publication")[0] == 4
    assert mallory(team, "consent", "grant", "S-ALICE", "--purpose", "any", "--publication")[0] in (4, 7)
    assert not out(team, "p0003", tmp_path)
    assert mallory(team, "add", loras / "p0003", "--subject", "s-mallory")[0] == 4


@pytest.mark.parametrize("kind", ["person", "product", "style"])
def test_what_nobody_compared_does_not_leave(team: Run, tmp_path: Path, kind: str) -> None:
    """Weights miss most second trainings: once somebody refused, a stranger's file waits for a base model or a look."""
    world = make_world(80)
    write_lora(tmp_path / "new", world.layout.unflatten(world.theta(70)), world.layout.alpha, base_model=BASE)
    subject = ["--subject", "s-mallory"] if kind == "person" else []
    assert mallory(team, "add", tmp_path / "new", "--kind", kind, *subject)[0] == 0
    assert out(team, "new", tmp_path)
    assert team("--actor", "olga", "consent", "withdraw", "s-alice")[0] == 0
    assert not out(team, "new", tmp_path)
    assert "never compared" in mallory(team, "export", "new", tmp_path / "out", "--force")[2]
    assert team("--actor", "olga", "resolve", "new", "--distinct", "--reason", "seen it")[0] == 0
    assert out(team, "new", tmp_path)


def _there(run: Run, name: str) -> bool:
    return run("show", name)[0] == 0


def test_a_name_is_not_taken_by_what_is_made_of_others(filled: Run) -> None:
    assert filled("sample", "--count", "3", "--name", "new")[0] == 0
    assert filled("mix", "new-001", "new-002", "--name", "both")[0] == 0
    for name in ("new-001", "new-003", "p0030"):
        code, _, err = filled("mix", "new-001", "new-002", "--name", name)
        assert code == 7
        assert f"'{name}' is not whom this is made of (new-001@1, new-002@1); save it under another name" in err
        assert err.count("\n") == 1
    assert filled("mix", "new-001", "new-002", "--weight", "0.2", "--name", "both")[0] == 0
    assert filled("show", "both@2")[0] == 0
    assert filled("show", "p0030@2")[0] == 3


def test_a_removed_name_is_not_taken_either(filled: Run, tmp_path: Path) -> None:
    assert filled("sample", "--count", "3", "--name", "new")[0] == 0
    for name in ("new-003", "p0035"):
        assert filled("remove", name, "--yes")[0] == 0
        code, _, err = filled("mix", "new-001", "new-002", "--name", name)
        assert code == 7
        assert f"'{name}' is not whom this is made of (new-001@1, new-002@1); save it under another name" in err
        assert filled("show", name)[0] == 3
    world = make_world(50)
    stranger = tmp_path / "stranger"
    write_lora(stranger, world.layout.unflatten(-world.theta(35) + 2 * world.mean), world.layout.alpha, base_model=BASE)
    _, _, err = filled("add", stranger, "--name", "p0035")
    assert "held: it does not look like p0035@1" in err
    assert filled("export", "p0035@2", tmp_path / "out")[0] == 4
    write_lora(tmp_path / "again", world.layout.unflatten(world.theta(35, 1)), world.layout.alpha, base_model=BASE)
    code, _, err = filled("add", tmp_path / "again", "--name", "p0035")
    assert (code, "held" in err) == (0, False)


def test_a_name_is_not_taken_by_somebody_who_looks_otherwise(filled: Run, tmp_path: Path) -> None:
    world = make_world(50)
    stranger = tmp_path / "stranger"
    write_lora(stranger, world.layout.unflatten(-world.theta(35) + 2 * world.mean), world.layout.alpha, base_model=BASE)
    foreseen = filled("add", stranger, "--name", "p0035", "--dry-run")
    assert "held: it does not look like p0035@1" in foreseen[1] + foreseen[2]
    _, _, err = filled("add", stranger, "--name", "p0035")
    assert "held: it does not look like p0035@1" in err
    assert filled("export", "p0035@2", tmp_path / "out")[0] == 4
