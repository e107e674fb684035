"""Every place that lets a picture out, found in the code, lets it out with both marks: an independent reader agrees."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import re
from pathlib import Path

import click
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from examples.detect import false_alarm
from tests.cli.walk import OUTPUTS, paths_of_commands
from tests.marking.pictures import HELD, scene
from tests.web.conftest import Build
from tests.web.routes import own_routes, paths, raw
from w2w_registry.catalog.events import events
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import DatabaseError, StorageError
from w2w_registry.marking.watermark import ALARM
from w2w_registry.services.audit import log
from w2w_registry.services.hub import release, release_files
from w2w_registry.services.identities import search_sheet
from w2w_registry.services.provenance.whose import whose
from w2w_registry.services.recording import pictures, preview_pictures
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search

ROOT = Path(__file__).parents[2]
c2pa = pytest.importorskip("c2pa")
# Who calls one of these lets pictures out. Each is tried here or where the comment says.
WAYS_OUT = {"prepare": "pictures", "leaving_preview": "preview_pictures"}
KNOWN = {
    "w2w_registry/services/identities/search_sheet.py",
    "w2w_registry/services/identities/paging.py",
    "w2w_registry/services/hub/release_files.py",
    "w2w_registry/services/recording/preview_pictures.py",
    "w2w_registry/services/synthesis/generate.py",  # tests/services/synthesis/test_synthesis.py
    "w2w_registry/services/synthesis/sample_sheet.py",  # tests/services/synthesis/test_synthesis.py
}


@pytest.fixture
def pictured(registry: Registry) -> Registry:
    """Three people with a picture of 256 pixels each."""
    for i in range(3):
        out = io.BytesIO()
        Image.fromarray(scene(np.random.default_rng(HELD + i), 256)).save(out, "PNG")
        digest = registry.artifacts.put(out.getvalue())
        with registry.catalog.write("curator") as uow:
            version = version_for(uow.session, f"p{i:04d}")
            uow.bulk_update(Version, [version.id], {"preview_digest": digest})
            uow.event("version.tested", {"version": version.id})
    return registry


def both_layers(registry: Registry, data: bytes) -> None:
    """The signed metadata as c2pa's own reader sees it, and the pixels as the stand-alone detector does."""
    root = pictures.content_credentials(registry).root
    trust = {"version": 1, "trust": {"user_anchors": root}, "verify": {"verify_trust": True}}
    with (
        c2pa.Context.from_dict(trust) as context,
        c2pa.Reader("image/png", io.BytesIO(data), context=context) as reader,
    ):
        told = json.loads(reader.json())
    assert told["validation_state"] == "Trusted"
    manifest = told["manifests"][told["active_manifest"]]
    actions = [a for one in manifest["assertions"] if "actions" in one["label"] for a in one["data"]["actions"]]
    assert "trainedAlgorithmicMedia" in actions[0]["digitalSourceType"].replace("With", "").replace(
        "Trained", "trained"
    )
    assert any(a["action"].startswith("c2pa.watermarked") for a in actions)
    assert false_alarm(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= ALARM


def test_pictures_served_are_marked_once_and_on_record(pictured: Registry, browser: TestClient, tmp_path: Path) -> None:
    for name in ("p0000", "p0001"):
        first, again = (browser.get(f"/pictures/{name}").content for _ in range(2))
        assert first == again
        both_layers(pictured, first)
    with pictured.catalog.read() as session:
        shown = list(events(session, action="version.preview"))
    assert [e.payload["marking"]["seen"] for e in shown] == [1, 1]
    (tmp_path / "seen.png").write_bytes(first)
    told = whose(pictured, tmp_path / "seen.png")
    assert (told["identity"], told["operation"]) == ("p0001", "preview")
    assert log.verify(pictured).ok


def test_where_nothing_can_be_written_a_picture_says_why_it_is_not_shown(
    pictured: Registry, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DatabaseError(url="sqlite:///home/catalog.db", reason="attempt to write a readonly database")

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "write", refuse)
        page = browser.get("/pictures/p0000")
        in_place = browser.get("/pictures/p0000", headers={"sec-fetch-dest": "image"})
    assert (page.status_code, in_place.status_code) == (503, 503)
    assert "each leaves with a mark that is on record, and the catalog cannot be written" in page.text
    assert in_place.headers["content-type"] == "image/svg+xml"
    assert "no mark is on record" in in_place.text
    both_layers(pictured, browser.get("/pictures/p0000").content)


def test_a_picture_that_cannot_be_kept_leaves_marked_all_the_same(
    pictured: Registry, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StorageError(path="pictures", reason="Read-only file system")

    monkeypatch.setattr(preview_pictures, "write_atomic", refuse)
    both_layers(pictured, browser.get("/pictures/p0000").content)
    assert not pictured.settings.pictures_dir.exists()
    with pictured.catalog.read() as session:
        assert len(list(events(session, action="version.preview"))) == 1


def test_whatever_the_pages_send_as_a_picture_is_marked(pictured: Registry, build: Build) -> None:
    """Every route that is read, with something in it; and what stands in pages or archives."""
    app = build()
    seen = []
    for route, path in zip(own_routes(app), [p for p in paths(app) if p != app.openapi_url], strict=True):
        if "GET" not in route.methods or path.startswith("/static/"):
            continue
        status, body = asyncio.run(raw(app, "GET", path))
        assert not re.search(rb"data:image/(?!svg)", body), path
        if body.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")):
            both_layers(pictured, body)
            seen.append((path, status))
    assert seen == [("/pictures/p0001", 200)]


def test_commands_that_write_pictures_are_these() -> None:
    """An option whose help speaks of a picture to be written: what it lets out is tried here or where it says."""
    found = {
        (name, option.opts[0])
        for name, _, option in paths_of_commands()
        if isinstance(option, click.Option) and _writes_pictures(option)
    }
    assert found == {
        ("generate", "--out"),  # tests/services/synthesis/test_synthesis.py
        ("sample", "--sheet"),  # tests/services/synthesis/test_synthesis.py
        ("search", "--sheet"),
        ("groups", "--sheet"),
        ("list", "--sheet"),
    }


def _writes_pictures(option: click.Option) -> bool:
    said = re.search(r"\b(pictures?|PNG|draw|sheet|images?|JPEG)\b", option.help or "", re.IGNORECASE)
    return option.name in OUTPUTS and bool(said)


def test_sheets_are_marked(pictured: Registry, tmp_path: Path) -> None:
    found = search(pictured, "p0000", limit=3)
    search_sheet.write_sheet(pictured, found, str(tmp_path / "search.png"))
    search_sheet.write_groups_sheet(pictured, [["p0000", "p0001"], ["p0002"]], str(tmp_path / "groups.png"))
    search_sheet.write_list_sheet(pictured, [("p0001", 1), ("p0002", 1)], str(tmp_path / "list.png"))
    for name in ("search", "groups", "list"):
        both_layers(pictured, (tmp_path / f"{name}.png").read_bytes())


def test_previews_of_releases_are_marked(pictured: Registry) -> None:
    with pictured.catalog.read() as session:
        facts = release_files.find_facts(pictured, session, "p0002")
    assert release_files.preview_of(pictured, facts, dry_run=True)[0] == pictured.artifacts.get(
        facts.preview_digest or ""
    )
    with pictured.catalog.read() as session:
        assert not list(events(session, action="version.preview"))
    options = release_files.Options(coordinates_only=True)
    with pictured.catalog.write("curator") as uow:
        version_for(uow.session, "p0002").identity.kind = "style"  # nobody's likeness: no consent is asked for
        uow.event("identity.tested")
    prepared = release.prepare(pictured, facts, "acme/x", None, options)
    both_layers(pictured, prepared.files["previews/1.png"])
    assert prepared.files == release.prepare(pictured, facts, "acme/x", None, options, dry_run=True).files


def test_no_other_place_lets_pictures_out() -> None:
    found = set()
    for top in ("w2w_registry", "cli"):
        for path in sorted((ROOT / top).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            imported = {
                alias.asname or alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("w2w_registry.services.recording")
                for alias in node.names
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    name = node.func.id if isinstance(node.func, ast.Name) else None
                    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                        name = node.func.attr if node.func.value.id in imported else None
                    elif name not in imported:
                        name = None
                    if name in WAYS_OUT:
                        found.add(str(path.relative_to(ROOT)))
    assert found <= KNOWN, f"{found - KNOWN} let pictures out: try them here"
    assert found == KNOWN
