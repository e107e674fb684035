"""Who is this?: a file or a name, the line drawn, and nothing registered."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.services.world import make_world
from tests.web.conftest import COUNT, ORIGIN, csrf_of
from w2w_registry.services.identities import paging
from w2w_registry.services.registry import Registry


@pytest.fixture
def again(tmp_path: Path) -> Path:
    """p0007, trained a second time."""
    return make_world(COUNT).write(tmp_path / "again", range(7, 8), training=1) / "p0007"


def send(client: TestClient, *files: tuple[str, bytes]) -> str:
    parts = [("files", (name, data, "application/octet-stream")) for name, data in files]
    answer = client.post("/who", data={"csrf": csrf_of(client)}, files=parts, headers={"origin": ORIGIN})
    return f"{answer.status_code} {answer.text}"


def test_a_file_is_recognised_and_not_registered(browser: TestClient, registry: Registry, again: Path) -> None:
    before = paging.change_number(registry)
    text = send(browser, *((p.name, p.read_bytes()) for p in again.iterdir()))
    assert text.startswith("200")
    assert '<span class="badge good">same</span> This is <a href="/identities/p0007@1">' in text
    assert "the line: " in text
    assert "of strangers would reach the line" in text
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
