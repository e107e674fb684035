"""A real Chromium before a real server; skipped where there is none (CI has Debian's)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.services.world import make_world
from tests.web.conftest import TOKEN, NoModel, build, filled_home, open_home, registry  # noqa: F401
from w2w_registry.consent.records import Scope
from w2w_registry.services.consent import grants
from w2w_registry.services.identities import describing, manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.synthesis import directions, edit
from w2w_registry.web.serve import Serving, prepare

CHROMIUM = Path(os.environ.get("W2W_CHROMIUM", "/usr/bin/chromium"))


@pytest.fixture(scope="session")
def gallery(filled_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    """A gallery with somebody who agreed, an edit, tags, a withdrawal: every page has something to show."""
    import shutil

    home = tmp_path_factory.mktemp("browser") / "home"
    shutil.copytree(filled_home / "home", home)
    opened = open_home(home)
    for i in range(50):
        manage.set_tags(opened, f"p{i:04d}", [f"team={'ads' if i % 2 else 'art'}"])
    loras = make_world(60).write(home.parent / "new", range(55, 60))
    scope = Scope(purposes=("any",), derivatives=True, publication=True)
    for i, name in enumerate(("acme/alice", "acme/bob")):
        grants.grant(opened, f"s-{i}", scope)
        request = AddRequest(paths=(str(loras / f"p005{5 + i}"),), name=name, subjects=(f"s-{i}",), labels={"hat": 1.0})
        add(opened, request)
    grants.grant(opened, "s-9", scope)
    lines = ["id,skin", *(f"p{i:04d},{(i * 7 % 50) / 50}" for i in range(50))]
    (home.parent / "labels.csv").write_text("\n".join(lines) + "\n")
    describing.import_labels(opened, str(home.parent / "labels.csv"))
    directions.fit(opened, "skin", "skin")
    edit.mix(opened, ["acme/alice", "acme/bob"], (1, 1), name="acme/both")
    manage.set_alias(opened, "production", "acme/alice@1")
    prepared = prepare(opened, Serving(port=0, token=TOKEN))
    app = prepared.make()
    app.state.site.engine.__dict__["open"] = NoModel().open
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [prepared.listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield prepared.url.partition("/?")[0]
    server.should_exit = True
    thread.join(20)
    opened.catalog.close()


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that somebody may ask about: a LoRA, and one that is none."""
    folder = tmp_path_factory.mktemp("asked")
    (lora,) = make_world(60).write(folder, range(7, 8), training=1).rglob("*.safetensors")
    lora.rename(folder / "asked.safetensors")
    (folder / "broken.safetensors").write_bytes(b"nothing of the kind")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser itself, closed with the file that uses it: Playwright's event loop runs as long as it is open, and no
    other file could run one of its own in this process."""
    if not CHROMIUM.exists():
        if os.environ.get("W2W_BROWSER") == "required":
            pytest.fail(f"no Chromium at {CHROMIUM}")
        pytest.skip(f"no Chromium at {CHROMIUM} (W2W_CHROMIUM names another)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(CHROMIUM), chromium_sandbox=False)
        yield browser
        browser.close()
