"""A client generated from the OpenAPI document does what the API does: the document says the truth."""

from __future__ import annotations

import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.services.world import make_world
from tests.web.conftest import ORIGIN, TOKEN
from tests.web.test_random import labelled
from w2w_registry.services.consent import grants
from w2w_registry.services.identities import browsing, manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis import directions

pytest.importorskip("openapi_python_client")


@pytest.fixture
def generated(program: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client's package, generated here and now."""
    (tmp_path / "openapi.json").write_bytes(program.get("/api/v1/openapi.json").content)
    (tmp_path / "config.yml").write_text("post_hooks: []\n")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json"]
    command += ["--meta", "none", "--output-path", "gallery_client", "--config", "config.yml", "--fail-on-warning"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("gallery_client")
    for name in [name for name in sys.modules if name.startswith("gallery_client")]:
        del sys.modules[name]


def call(name: str) -> Any:
    return importlib.import_module(f"gallery_client.api.default.{name}")


def written_again(parsed: Any) -> Any:
    """What the client's objects say, once they are JSON again."""
    if isinstance(parsed, list):
        return [written_again(one) for one in parsed]
    return without_offsets(json.loads(json.dumps(parsed.to_dict())))


def without_offsets(value: Any) -> Any:
    """UTC written one way."""
    if isinstance(value, dict):
        return {key: without_offsets(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_offsets(one) for one in value]
    return value.replace("+00:00", "Z") if isinstance(value, str) else value


def test_the_generated_client_does_what_the_api_does(generated: Any, program: TestClient, registry: Registry) -> None:
    client = generated.AuthenticatedClient(base_url=ORIGIN, token=TOKEN)
    client.set_httpx_client(program)
    models = importlib.import_module("gallery_client.models")

    listed, cursor = [], None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        page = json.loads(call("identities").sync_detailed(client=client, limit=20, **more).content)
        listed += [row["identity"] for row in page["identities"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert listed == [row["identity"] for row in browsing.browse(registry)]

    one = call("identity").sync_detailed("p0001", client=client)
    assert json.loads(one.content)["identity"] == "p0001"
    tags = models.Tags(identity="p0001", set_=["team=ads"])
    key = {"idempotency_key": "once"}
    first, again = (call("tags").sync_detailed(client=client, body=tags, **key) for _ in range(2))
    assert first.content == again.content
    assert manage.show(registry, "p0001")["tags"] == {"team": "ads"}

    read = {
        "identities": {"limit": 3},
        "identity": {"name": "p0001"},
        "history": {"name": "p0001"},
        "spaces": {},
        "space": {"name": "faces"},
        "subjects": {},
        "subject": {"subject": "s-1"},
        "held": {},
        "events": {"limit": 5},
        "verify": {"body": models.Verify()},
        "search": {"body": models.Search(query="p0001", limit=2)},
    }
    grants.grant(registry, "s-1", grants.Scope(purposes=("any",)))
    for what, asked in read.items():
        said = call(what).sync_detailed(client=client, **asked)
        assert said.status_code == 200, said.content
        assert written_again(said.parsed) == without_offsets(json.loads(said.content)), what

    found = call("search").sync_detailed(client=client, body=models.Search(query="p0001", limit=2))
    assert len(json.loads(found.content)["results"]) == 2
    types = importlib.import_module("gallery_client.types")
    refused = call("search_file").sync_detailed(client=client, body=types.File(io.BytesIO(b"no LoRA")))
    assert (refused.status_code, json.loads(refused.content)["code"]) == (422, "bad-lora")
    assert refused.parsed.code == "bad-lora"
    missing = call("identity").sync_detailed("nobody", client=client)
    assert (missing.status_code, missing.parsed.status) == (404, 404)


def test_what_is_made_and_where_it_came_from_reads_as_it_was_sent(
    generated: Any, program: TestClient, registry: Registry, tmp_path: Path
) -> None:
    client = generated.AuthenticatedClient(base_url=ORIGIN, token=TOKEN)
    client.set_httpx_client(program)
    models = importlib.import_module("gallery_client.models")
    loras = make_world(60).write(tmp_path / "new", range(55, 57))
    for i in range(2):
        grants.grant(registry, f"s-{i}", grants.Scope(purposes=("any",), derivatives=True, publication=True))
        add(registry, AddRequest(paths=(str(loras / f"p005{5 + i}"),), name=f"acme/{i}", subjects=(f"s-{i}",)))
    labelled(registry, tmp_path)
    directions.fit(registry, "skin", "skin")
    asked = {
        "mixes": {"body": models.Mix(identities=["acme/0", "acme/1"], name="mixed")},
        "edits": {"body": models.Edit("acme/0", models.EditAmounts.from_dict({"skin": 0.5}), "edited")},
        "lineage": {"name": "mixed"},
        "spaces": {},
        "space": {"name": "faces"},
        "aliases": {"body": models.AliasChange(alias="production", target="acme/0@1")},
        "decide": {"body": models.Decision(version="acme/0", reason="looked", distinct=True)},
    }
    for what, given in asked.items():
        said = call(what).sync_detailed(client=client, **given)
        assert said.status_code in (200, 201), said.content
        assert written_again(said.parsed) == without_offsets(json.loads(said.content)), what
        assert not getattr(said.parsed, "additional_properties", None), what
    said = call("lineage").sync_detailed("acme/0", client=client, down=True)
    assert {one.ref for one in said.parsed.versions} == {"acme/0@1", "mixed@1", "edited@1"}
    assert written_again(said.parsed) == without_offsets(json.loads(said.content))


def test_every_operation_is_called_here(generated: Any) -> None:
    """A new one fails until it is called above too."""
    called = {
        *("identities", "identity", "history", "lineage", "spaces", "space", "subjects", "subject", "held", "events"),
        *("search", "search_file", "tags", "aliases", "edits", "mixes", "decide", "verify"),
    }
    text = Path(__file__).read_text()
    assert all(re.search(rf'(call\("{name}"\)|"{name}": \{{)', text) for name in called)
    there = Path(generated.__file__).parent / "api" / "default"
    assert {path.stem for path in there.glob("*.py")} - {"__init__"} == called
