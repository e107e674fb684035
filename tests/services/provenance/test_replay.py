"""Replays of real imports, edits, mixtures and samples; and verification of files and signed folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.models import Coordinates, Operation, Version
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.vectors import pack
from w2w_registry.errors import BadFile, IntegrityError, NotFound
from w2w_registry.records import OperationKind
from w2w_registry.services import signing
from w2w_registry.services.consent import protect, subjects
from w2w_registry.services.identities import ingest
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.provenance import replay, verify
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces import manage
from w2w_registry.services.synthesis import directions, edit, export
from w2w_registry.settings import Settings

OPEN = {"unknown": ["register", "search", "edit", "mix", "sample", "export"]}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, loras: Path, sqlite_template: Path) -> Path:
    """A registry with a fitted space, eighty imports, an edit, a mixture and three samples."""
    root = tmp_path_factory.mktemp("replay")
    shutil.copy(sqlite_template, root / "catalog.db")
    registry = opened(root)
    manage.fit_space(registry, "faces", [str(loras)], base_model="tiny/base", components=12)
    rng = np.random.default_rng(0)
    report = ingest.add(registry, ingest.AddRequest(paths=[str(loras)], base_model="tiny/base"))
    assert report.exit_code == 0, report
    with registry.catalog.write("curator") as uow:
        from w2w_registry.catalog.models import Label

        rows = uow.session.execute(select(Coordinates.version_id, Coordinates.data)).all()
        for version_id, data in rows:
            value = float(np.frombuffer(data, "<f4")[0]) + 0.01 * float(rng.normal())
            uow.session.add(Label(version_id=version_id, name="skin", number=value))
        uow.event("label.add")
    directions.fit(registry, "skin", "skin")
    names = sorted(item.identity or "" for item in report.items)
    edit.edit(registry, names[0], {"skin": 1.0}, name="edited")
    edit.mix(registry, names[:2], (0.3, 0.7), name="mixed")
    edit.sample(registry, 3, name="drawn", seed=7)
    registry.catalog.close()
    return root


def opened(root: Path) -> Registry:
    url = f"sqlite:///{root}/catalog.db"
    settings = Settings(root / "home", url, "curator", str(root / "artifacts"), policy=OPEN)
    return Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Iterator[Registry]:
    shutil.copytree(template, tmp_path / "r")
    found = opened(tmp_path / "r")
    yield found
    found.catalog.close()


def first_import(registry: Registry) -> str:
    with registry.catalog.read() as session:
        version = session.scalars(
            select(Version).join(Operation).where(Operation.kind == OperationKind.IMPORT).order_by(Version.id)
        ).first()
        assert version is not None
        return f"{version.identity.name}@{version.number}"


@pytest.mark.parametrize("name", ["edited", "mixed", "drawn-001", "drawn-003"])
def test_arithmetic_replays_to_the_same_numbers(registry: Registry, name: str) -> None:
    result = replay.replay(registry, name)
    assert result["outcome"] in ("identical", "equal-within-tolerance"), result
    assert result["distance"] < 1e-5


def test_samples_of_many_people_replay_from_those_they_were_learned_from(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "_POPULATION", 40)
    edit.sample(registry, 4, name="among-many", seed=3)
    with registry.catalog.read() as session:
        params = session.scalars(select(Operation.params).order_by(Operation.started_at.desc()).limit(1)).one()
    assert 20 < params["spread"] <= 40
    assert "population" not in params
    edit.sample(registry, 5, name="later", seed=4)
    result = replay.replay(registry, "among-many-002")
    assert result["outcome"] in ("identical", "equal-within-tolerance"), result
    remove(registry, first_import(registry).partition("@")[0], perform=True)
    gone = replay.replay(registry, "drawn-001")
    assert (gone["outcome"], gone["possible"]) == ("impossible", True)
    assert "not all of them are left" in gone["reasons"][0]


def test_an_import_replays_from_the_stored_file(registry: Registry) -> None:
    result = replay.replay(registry, first_import(registry))
    assert result["outcome"] in ("identical", "equal-within-tolerance"), result


def test_a_dry_run_plans_only(registry: Registry) -> None:
    plan = replay.replay(registry, "edited", dry_run=True)
    assert "outcome" not in plan
    assert [s["action"] for s in plan["steps"]] == ["load"] * 3 + ["run", "compare"]
    assert plan["possible"]


def test_what_is_missing_is_said(registry: Registry) -> None:
    name = first_import(registry)
    with registry.catalog.read() as session:
        version = session.scalars(select(Version).order_by(Version.id)).first()
        assert version is not None
        digest = version.artifact_digest
    assert digest is not None
    registry.artifacts.remove(digest)
    result = replay.replay(registry, name)
    assert (result["outcome"], result["possible"]) == ("impossible", False)
    assert "not in the artifact store" in result["reasons"][0]


def test_altered_coordinates_are_not_taken_for_a_replay(registry: Registry) -> None:
    change_coordinates(registry, "mixed", keep_digest=True)
    with pytest.raises(IntegrityError):
        replay.replay(registry, "mixed")


def test_a_consistent_forgery_comes_out_different(registry: Registry) -> None:
    change_coordinates(registry, "mixed", keep_digest=False)
    result = replay.replay(registry, "mixed")
    assert result["outcome"] == "different"
    assert "altered" in result["reasons"][0]


def change_coordinates(registry: Registry, name: str, *, keep_digest: bool) -> None:
    from w2w_registry.catalog.resolve import version_for

    with registry.catalog.write("forger") as uow:
        version = version_for(uow.session, name)
        row = uow.session.get_one(Coordinates, (version.space_id, version.id))
        data, digest = pack(np.frombuffer(row.data, "<f4") + np.float32(0.5))
        row.data = data
        if not keep_digest:
            row.digest = digest
        uow.event("forgery", {"version": version.id})


# -- verify ------------------------------------------------------------------------------------------
def test_versions_verify_until_a_file_changes(registry: Registry) -> None:
    name = first_import(registry)
    assert verify.verify_version(registry, name)["problems"] == []
    assert verify.mismatched(registry) == []
    with registry.catalog.read() as session:
        version = session.scalars(select(Version).order_by(Version.id)).first()
        assert version is not None
        path = registry.artifacts.path(version.artifact_digest or "")
    assert path is not None
    path.write_bytes(path.read_bytes() + b"x")
    [found] = verify.mismatched(registry)
    assert found["version"] == name
    assert "was changed" in found["problems"][0]
    path.unlink()
    assert "is gone" in verify.verify_version(registry, name)["problems"][0]
    with pytest.raises(NotFound):
        verify.verify_version(registry, "missing")


def test_signed_folders(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export.export(registry, "mixed", str(folder))
    keys, others = signing.new_key_pair(tmp_path / "keys"), signing.new_key_pair(tmp_path / "others")
    with pytest.raises(BadFile):
        signing.verify_folder(folder, public_key=Path(keys["public_key"]))
    with pytest.raises(BadFile):
        signing.new_key_pair(tmp_path / "keys")
    signing.sign_folder(folder, Path(keys["private_key"]))
    assert signing.verify_folder(folder, public_key=Path(keys["public_key"]))["ok"]
    with pytest.raises(IntegrityError):
        signing.verify_folder(folder, public_key=Path(others["public_key"]))
    target = next(p for p in folder.iterdir() if p.suffix == ".safetensors")
    content = target.read_bytes()
    target.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(IntegrityError):
        signing.verify_folder(folder, public_key=Path(keys["public_key"]))
    target.write_bytes(content)
    (folder / "extra.txt").write_text("more")
    with pytest.raises(IntegrityError):
        signing.verify_folder(folder, public_key=Path(keys["public_key"]))
    with pytest.raises(BadFile):
        signing.sign_folder(tmp_path / "missing", Path(keys["private_key"]))
    with pytest.raises(BadFile):
        signing.sign_folder(folder, tmp_path / "missing.key")


# -- protecting somebody who was never registered ----------------------------------------------------
def test_a_lora_that_stays_outside_can_be_protected(registry: Registry, retrained: Path, tmp_path: Path) -> None:
    outside = sorted(p for p in retrained.iterdir())[0]
    done = protect.protect_subject(registry, "s-outside", str(outside))
    assert 0.2 < done["threshold"] <= 1.0
    assert subjects.show_subject(registry, "s-outside")["state"] == "protected"
    report = ingest.add(registry, ingest.AddRequest(paths=[str(outside)], name="comes-in", base_model="tiny/base"))
    assert report.items[0].status == "failed"
    assert report.items[0].error is not None
    assert report.items[0].error.code == "likeness-refused"
