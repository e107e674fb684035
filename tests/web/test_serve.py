"""``w2w-reg serve``: what it prints lets one in, whom it answers, what stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from w2w_registry.cli.app import main
from w2w_registry.errors import Conflict, NotInitialised, SettingError
from w2w_registry.services.registry import Registry
from w2w_registry.web import serve as serving
from w2w_registry.web.serve import Serving, allowed_hosts, prepare

from .conftest import TOKEN, open_home


def test_the_printed_address_lets_one_in(registry: Registry) -> None:
    command = [sys.executable, "-c", "from w2w_registry.cli import main; main()", "serve", "--port", "0"]
    environment = {**os.environ, "W2W_HOME": str(registry.settings.home), "W2W_TOKEN": TOKEN, "W2W_ACTOR": "alice"}
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        assert served.stdout is not None
        url = served.stdout.readline().strip()
        assert url.endswith(f"/?token={TOKEN}")
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(url, timeout=30) as answer:
            assert answer.status == 200
            assert "token" not in answer.url
            assert "alice" in answer.read().decode()
        base = url.partition("?")[0]
        for path, headers, code in (("", {}, 401), ("api/v1/identities", {}, 401), ("", {"Host": "evil.example"}, 421)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(base + path, headers=headers), timeout=30)
            assert refused.value.code == code
    finally:
        served.send_signal(signal.SIGINT)
        _, said = served.communicate(timeout=30)
    assert "Traceback" not in said
    assert "Anybody with this address can do what you can." in said


@pytest.mark.parametrize("words", [[], ["--read-only"]])
def test_the_address_alone_lets_nobody_in_where_people_sign_in(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    with open(registry.settings.home / "registry.toml", "a") as settings:
        settings.write('[web]\nuser_header = "X-Forwarded-User"\nproxies = ["127.0.0.1"]\n')
    monkeypatch.setattr(serving, "run", lambda prepared: prepared.listener.close())
    with pytest.raises(SystemExit) as stop:
        main(["--home", str(registry.settings.home), "serve", "--port", "0", *words])
    out, err = capsys.readouterr()
    assert not stop.value.code
    assert "token" not in out
    assert "People sign in first" in err
    assert "can do what you can" not in err


def test_hosts_are_this_machines_names_with_the_port() -> None:
    assert allowed_hosts("127.0.0.1", 8765, []) == {"127.0.0.1:8765", "localhost:8765", "[::1]:8765"}
    assert "0.0.0.0:8765" not in allowed_hosts("0.0.0.0", 8765, [])
    assert {"models.acme.example", "models.acme.example:8765"} <= allowed_hosts(
        "10.0.0.5", 8765, ["Models.acme.example"]
    )
    assert allowed_hosts("10.0.0.5", 80, ["a:443"]) >= {"10.0.0.5", "10.0.0.5:80", "a:443"}


def test_what_cannot_be_served_says_so(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotInitialised):
        prepare(open_home(tmp_path / "nowhere"), Serving(port=0))
    with pytest.raises(SettingError):
        prepare(registry, Serving(port=0, token="short"))
    first = prepare(registry, Serving(port=0))
    with pytest.raises(Conflict), first.listener:
        prepare(registry, Serving(port=first.listener.getsockname()[1]))
