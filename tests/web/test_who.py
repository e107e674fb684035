"""Who is this?: a file or a name, the line drawn, and nothing registered."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.services.world import make_world
from tests.web.conftest import COUNT, HOST, ORIGIN, TOKEN, NoModel, csrf_of, enter
from w2w_registry.provenance.graph import Direction
from w2w_registry.services.identities import browsing, manage, paging
from w2w_registry.services.provenance import lineage
from w2w_registry.services.registry import Registry
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app


@pytest.fixture
def again(tmp_path: Path) -> Path:
    """p0007, trained a second time."""
    return make_world(COUNT).write(tmp_path / "again", range(7, 8), training=1) / "p0007"


def send(client: TestClient, *files: tuple[str, bytes], **more: str) -> str:
    parts = [("files", (name, data, "application/octet-stream")) for name, data in files]
    answer = client.post("/who", data={"csrf": csrf_of(client), **more}, files=parts, headers={"origin": ORIGIN})
    return f"{answer.status_code} {answer.text}"


def test_a_file_is_recognised_and_not_registered(browser: TestClient, registry: Registry, again: Path) -> None:
    before = paging.change_number(registry)
    text = send(browser, *((p.name, p.read_bytes()) for p in again.iterdir()))
    assert text.startswith("200")
    # Weights alone never say more than "likely".
    assert '<span class="badge verdict-likely">likely</span> This may be <a href="/identities/p0007@1">' in text
    assert "the line: " in text
    assert "searches for strangers here end with so near a match" in text
    assert "lies outside the space" in text
    assert paging.change_number(registry) == before


def test_a_file_is_registered_when_that_is_asked(browser: TestClient, registry: Registry, again: Path) -> None:
    files = [(p.name, p.read_bytes()) for p in again.iterdir()]
    text = send(browser, *files, name="acme/again", subject="s-9")
    assert 'Registered as <a href="/identities/acme/again@1">' in text
    assert manage.show(registry, "acme/again")["subjects"] == ["s-9"]
    assert send(browser, *files, name="../x").startswith("400")
    viewer = enter(create_app(registry, Access(TOKEN, "eve", read_only=True), frozenset({HOST}), engine=NoModel()))
    assert send(viewer, *files, name="acme/more").startswith("403")


def test_a_registered_file_is_the_same_model_and_is_not_registered_twice(
    browser: TestClient, registry: Registry, tmp_path: Path
) -> None:
    own = make_world(COUNT).write(tmp_path / "own", range(7, 8)) / "p0007"
    files = [(p.name, p.read_bytes()) for p in own.iterdir()]
    text = send(browser, *files)
    assert 'same model</span> This exact model is registered as <a href="/identities/p0007@1">' in text
    assert "False alarm" not in text  # it is certain
    before = len(browsing.browse(registry))
    text = send(browser, *files, name="acme/other")
    assert 'It was registered already, as <a href="/identities/p0007@1">' in text
    assert len(browsing.browse(registry)) == before


def test_a_file_without_its_settings_says_so(browser: TestClient, again: Path) -> None:
    said = "Its file states no alpha"
    assert said in send(browser, ("adapter_model.safetensors", (again / "adapter_model.safetensors").read_bytes()))
    assert said not in send(browser, *((p.name, p.read_bytes()) for p in again.iterdir()))


def test_a_photo_without_a_base_model_says_what_is_missing(browser: TestClient, registry: Registry) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    before = paging.change_number(registry)
    text = send(browser, ("who.png", picture.getvalue()))
    assert text[:3] == "404"
    assert "base model" in text
    assert paging.change_number(registry) == before


def test_the_api_says_the_same(program: TestClient, again: Path) -> None:
    data = (again / "adapter_model.safetensors").read_bytes()
    answer = program.post(
        "/api/v1/search/file?limit=3", content=data, headers={"content-type": "application/octet-stream"}
    )
    assert answer.status_code == 200
    assert [hit["rank"] for hit in answer.json()["results"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.safetensors", b""),
        ("x.safetensors", b"\xff" * 64),
        ("x.safetensors", (1 << 60).to_bytes(8, "little") + b"{}"),
        ("x.bin", b"\x80\x04."),
        ("x.pt", b"PK\x03\x04"),
        ("../../etc/passwd", b"root:"),
        ("..\\evil.safetensors", b"no"),
        ("<script>alert(1)</script>.safetensors", b"no"),
        ("\u202egnp.safetensors", b"no"),
        ("a" * 4000 + ".safetensors", b"no"),
    ],
)
def test_what_is_no_lora_is_refused_without_a_trace(browser: TestClient, name: str, data: bytes) -> None:
    text = send(browser, (name, data))
    assert text[:3] in ("400", "422")
    for said in ("Traceback", "/tmp", "<script>alert", "\u202e", "root:"):
        assert said not in text


def test_two_files_are_not_one_person(browser: TestClient) -> None:
    assert send(browser, ("a.safetensors", b"x"), ("b.safetensors", b"y")).startswith("422")


def test_somebody_registered(browser: TestClient) -> None:
    text = browser.get("/who?name=p0001").text
    assert "Nobody else here" in text
    assert browser.get("/who?name=p00001").status_code == 404
    assert "did you mean" in browser.get("/who?name=p00001").text


def test_a_photo_is_looked_at_and_forgotten(tmp_path: Path) -> None:
    from tests.diffusion import tiny
    from tests.services import studio
    from w2w_registry.diffusion.pipeline import load_model
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis.engine import WarmEngine

    pipeline = tiny.build("sd1", tmp_path / "pipeline")
    settings = studio.build(tmp_path, pipeline, tiny.layout(load_model(pipeline, device="cpu").unet))
    photo = studio.photo(tmp_path / "photos", "somebody", 3).read_bytes()
    with open_registry(settings) as registry:
        before = browsing.browse(registry)
        engine = WarmEngine(str(pipeline), "cpu")
        client = enter(create_app(registry, Access(TOKEN, "eve"), frozenset({HOST}), engine=engine))
        text = send(client, ("Me at sea.PNG", photo))
        assert text.startswith("200")
        assert "Me at sea.PNG" in text
        assert "photo stands for the point of the space that draws it best" in text
        assert "A photo alone cannot tell" in text
        assert browsing.browse(registry) == before
        assert list(settings.temporary_dir.glob("*")) == []
        assert not client.app.state.site.jobs._jobs  # type: ignore[attr-defined]
        assert send(client, ("no.png", b"\x89PNG no")).startswith("422")
        assert "Registered as" in send(client, ("me.png", photo), name="me")
        assert manage.show(registry, "me")["operation"]["kind"] == "invert"
        (made,) = lineage.lineage(registry, "me", Direction.UP).operations.values()
        assert "me.png" in [one.name for one in made.inputs]  # what was sent, not what it was kept as
