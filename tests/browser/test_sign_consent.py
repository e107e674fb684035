"""The page with which a subject signs with a passkey, in a real browser with a virtual authenticator."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from w2w_registry.consent.credential import open_credential
from w2w_registry.records import now

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The examples' folder as a static site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(EXAMPLES)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_address[1]}"
    server.shutdown()


def sign(chromium: Any, site: str, subjects: list[str], *, verified: bool = True) -> tuple[list[str], str]:
    """What the page signs for each subject, and what it says went wrong last."""
    context = chromium.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    device = {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
        "isUserVerified": verified, "automaticPresenceSimulation": True,
    }  # fmt: skip
    session.send("WebAuthn.addVirtualAuthenticator", {"options": device})
    page.goto(f"{site}/sign_consent.html")
    found = []
    for subject in subjects:
        page.fill("#subject", subject)
        page.fill("#purposes", "Research, film")
        page.check("#derivatives")
        page.fill("#until", "2031-01-01")
        page.click("#sign")
        page.wait_for_function(
            "!document.getElementById('done').hidden || document.getElementById('problem').textContent"
        )
        found.append(page.evaluate("document.getElementById('done').dataset.jws || ''"))
    problem = page.text_content("#problem")
    context.close()
    return found, problem


def test_a_passkey_signs_a_consent(chromium: Any, site: str) -> None:
    (first, again), problem = sign(chromium, site, ["s-17", "s-17"])
    assert problem == ""
    one = open_credential(first)
    assert (one.subject, one.scope.purposes, one.scope.derivatives) == ("s-17", ("research", "film"), True)
    assert str(one.scope.expires_at).startswith("2031-01-01")
    assert one.origin == site
    assert one.signed_at is not None
    assert abs(now() - one.signed_at) < timedelta(minutes=5)
    assert open_credential(again).key == one.key, "the same passkey is asked again"
    swapped = json.loads(first) | {"payload": json.loads(again)["payload"]}
    with pytest.raises(ValueError, match="something else"):
        open_credential(json.dumps(swapped))


def test_who_is_not_known_to_the_device_signs_nothing(chromium: Any, site: str) -> None:
    (none,), problem = sign(chromium, site, ["s-17"], verified=False)
    assert none == ""
    assert problem.startswith("Not signed")
