"""Fixtures: a running local Hub and an owner on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub.local_hub import LocalHub
from tests.hub.local_hub.store import User


@pytest.fixture(autouse=True)
def _plain_uploads(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """LFS uploads (the local Hub has no xet service), and neither this machine's token nor its Hub cache."""
    import huggingface_hub.constants as constants

    home = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture
def owner(hub: LocalHub) -> User:
    return hub.user("acme", orgs=("acme-research",))
