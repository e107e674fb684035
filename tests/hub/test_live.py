"""The contract with the real Hub, for anyone with a token: ``W2W_HUB_LIVE=1 HF_TOKEN=… pytest -m live tests/hub``.

The same steps the local Hub answers in the other tests, against whatever ``HF_ENDPOINT`` names (huggingface.co by
default), in a private repo of the token's own account that is deleted at the end.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.test_client import tensors
from w2w_registry.errors import Conflict, NotFound
from w2w_registry.hub.api import Hub
from w2w_registry.hub.card import CardFacts, model_card, removed_card
from w2w_registry.hub.client import connect
from w2w_registry.hub.plan import Access, plan_push

_TOKEN, _ENDPOINT = os.environ.get("HF_TOKEN"), os.environ.get("HF_ENDPOINT")

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get("W2W_HUB_LIVE"), reason="talks to the real Hub; set W2W_HUB_LIVE=1"),
]


@pytest.fixture
def live() -> Hub:
    return connect(_ENDPOINT, env={}, token=_TOKEN)


@pytest.fixture
def repo(live: Hub) -> Iterator[str]:
    name = f"{live.whoami().name}/w2w-contract-{secrets.token_hex(4)}"
    yield name
    live.delete(name)


def test_the_contract(live: Hub, repo: str, tmp_path: Path) -> None:
    assert live.create(repo, private=True) is True
    assert live.create(repo, private=True) is False
    card = model_card(CardFacts(repo, "acme/x", 1, "product", "acme/base", None, "s@1", "0" * 64, 3, "sample"))
    files = {"adapter_model.safetensors": tensors(), "w2w.json": b"{}\n", "README.md": card.encode()}
    plan = plan_push(repo, live.state(repo), files, Access.PRIVATE)
    assert set(plan.add) == set(files)
    first = live.commit(repo, parent=live.state(repo).commit, add=files, message="one")
    state = live.state(repo)
    assert (state.commit, state.private) == (first, True)
    assert plan_push(repo, state, files, Access.PRIVATE).empty
    live.tag(repo, "v1", first)
    live.tag(repo, "v1", first)
    assert live.tags(repo)["v1"] == first
    second = live.commit(repo, parent=first, add={"w2w.json": b"{ }\n"}, message="two")
    with pytest.raises(Conflict):
        live.tag(repo, "v1", second)
    with pytest.raises(Conflict):
        live.commit(repo, parent=first, add={"late.txt": b"x"}, message="late")
    live.download(repo, first, [f for f in live.state(repo, "v1").files if f.path in files], tmp_path)
    assert {p: (tmp_path / p).read_bytes() for p in files} == files
    live.set_access(repo, private=False, gated=True)
    assert (live.state(repo).private, live.state(repo).gated) == (False, True)
    live.set_access(repo, private=True)
    live.erase_files(repo, {"README.md": removed_card().encode()}, "Remove the content")
    assert {f.path for f in live.state(repo).files} <= {"README.md", ".gitattributes"}
    assert live.tags(repo) == {}
    assert live.delete(repo) is True
    assert live.delete(repo) is False
    with pytest.raises(NotFound):
        live.state(repo)
