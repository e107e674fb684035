"""``hub/client.py`` through the real huggingface_hub against the local Hub."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests.hub.local_hub import Fault, LocalHub
from tests.hub.local_hub.store import Entry, User
from w2w_registry.errors import Conflict, HubError, NotFound, RegistryError, StorageError, UnsafeRepo
from w2w_registry.hub.api import Account, Digests, HubFile
from w2w_registry.hub.client import HubClient, OfflineHub, connect
from w2w_registry.hub.client_errors import plain
from w2w_registry.messages import message

REPO = "acme/r"


def tensors(payload: bytes = b"\0" * 400) -> bytes:
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [len(payload) // 4], "data_offsets": [0, len(payload)]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + payload


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
def client(hub: LocalHub, owner: User, naps: list[float]) -> HubClient:
    return HubClient(hub.endpoint, token=owner.token, sleep=naps.append)


@pytest.fixture
def no_library_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own backoff waits in real seconds; only its clock is replaced here."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None))


def head(client: HubClient) -> str:
    return client.state(REPO).commit


def test_the_life_of_a_repo(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    assert client.whoami() == Account("acme", ("acme-research",))
    assert client.create(REPO, private=True) is True
    assert client.create(REPO, private=True) is False
    steps: list[tuple[int, int]] = []
    weights = tensors()
    local = tmp_path / "big.safetensors"
    local.write_bytes(weights)
    made = client.commit(
        REPO,
        parent=head(client),
        add={"w.safetensors": weights, "copy.safetensors": local, "README.md": b"---\nlicense: mit\n---\n"},
        message="one",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps[-1] == (len(weights) * 2 + 21, len(weights) * 2 + 21)
    state = client.state(REPO)
    assert (state.commit, state.private, state.gated, state.card["license"]) == (made, True, False, "mit")
    found = state.file("w.safetensors")
    assert found == HubFile("w.safetensors", len(weights), found.blob_id, hashlib.sha256(weights).hexdigest())  # type: ignore[union-attr]
    assert all(state.file(p).holds(Digests.of(hub.files(REPO)[p] or b"")) for p in ("w.safetensors", "README.md"))  # type: ignore[union-attr]
    client.tag(REPO, "v1", made)
    client.tag(REPO, "v1", made)
    assert client.tags(REPO) == {"v1": made}
    client.set_access(REPO, private=False, gated=True)
    assert (client.state(REPO).private, client.state(REPO).gated) == (False, True)
    assert [r.repo_id for r in client.listing(owner="acme", tags=["license:mit"])] == [REPO]
    out = tmp_path / "out"
    out.mkdir()
    client.download(REPO, made, [f for f in state.files if f.path != ".gitattributes"], out)
    assert (out / "w.safetensors").read_bytes() == weights
    second = client.commit(REPO, parent=made, add={"x.txt": b"x"}, delete=["copy.safetensors"], message="two")
    with pytest.raises(Conflict):
        client.tag(REPO, "v1", second)
    with pytest.raises(Conflict):
        client.commit(REPO, parent=made, add={"y.txt": b"y"}, message="stale")
    client.erase_files(REPO, {"README.md": b"---\ntags: []\n---\n"}, "removed")
    assert hub.files(REPO) == {
        ".gitattributes": hub.files(REPO)[".gitattributes"],
        "README.md": b"---\ntags: []\n---\n",
    }
    repo = hub.repo(REPO)
    assert repo is not None
    assert (len(repo.commits), repo.lfs, repo.tags) == (1, {}, {})
    client.erase_files(REPO, {"README.md": b"---\ntags: []\n---\n"}, "removed")
    client.untag(REPO, "v1")
    assert client.delete(REPO) is True
    assert client.delete(REPO) is False
    assert hub.leaked_tokens == []


def test_a_repo_that_moved_answers_under_its_new_name(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    client.create(REPO, private=False)
    made = client.commit(REPO, parent=head(client), add={"w.safetensors": tensors()}, message="one")
    hub.store.move(REPO, "acme/new", next(iter(hub.store.users.values())))
    assert client.state(REPO).repo_id == "acme/new"
    client.download(REPO, made, [f for f in client.state(REPO).files if f.path == "w.safetensors"], tmp_path)
    assert (tmp_path / "w.safetensors").read_bytes() == tensors()


@pytest.mark.parametrize("when", ["before", "after"])
def test_one_commit_although_the_answer_is_lost(hub: LocalHub, client: HubClient, naps: list[float], when: str) -> None:
    client.create(REPO, private=True)
    parent = head(client)
    hub.faults.add(Fault("cut", match="/commit/", when=when))  # type: ignore[arg-type]
    made = client.commit(REPO, parent=parent, add={"a.safetensors": tensors(), "b.txt": b"b"}, message="one")
    assert [c.oid for c in hub.history(REPO)] == [made, parent]
    assert naps == [0.5]


def test_retries_are_bounded_and_obey_retry_after(hub: LocalHub, client: HubClient, naps: list[float]) -> None:
    client.create(REPO, private=True)
    hub.faults.add(Fault("status", match="GET", status=429, headers={"Retry-After": "7"}))
    hub.faults.add(Fault("status", match="GET", status=503, times=2))
    client.state(REPO)
    assert naps == [7.0, 1.0, 2.0]
    naps.clear()
    hub.faults.add(Fault("status", match="GET", status=500, times=None))
    with pytest.raises(HubError) as down:
        client.state(REPO)
    assert (down.value.status, naps) == (500, [0.5, 1.0, 2.0, 4.0])
    hub.faults.reset()
    naps.clear()
    hub.faults.add(Fault("status", match="GET", status=429, headers={"Retry-After": "3600"}, times=None))
    with pytest.raises(HubError) as limited:
        client.state(REPO)
    assert (limited.value.status, naps) == (429, [])
    assert "it asks to wait 3,600 s" in message(limited.value)


def test_a_cut_download_is_resumed_where_it_stopped(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    client.create(REPO, private=True)
    data = tensors(os.urandom(400_000))
    made = client.commit(REPO, parent=head(client), add={"w.safetensors": data}, message="one")
    hub.faults.reset()
    hub.faults.add(Fault("truncate", match="GET /storage", times=3))
    client.download(REPO, made, [f for f in client.state(REPO).files if f.path == "w.safetensors"], tmp_path)
    assert (tmp_path / "w.safetensors").read_bytes() == data
    assert sum(s.path.startswith("/storage") for s in hub.faults.seen) == 4


def test_a_silent_hub_does_not_hang(hub: LocalHub, client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2w_registry.hub.client.TIMEOUT", 0.2)
    hub.faults.add(Fault("slow", match="whoami", seconds=1.0, times=None))
    with pytest.raises(HubError) as silent:
        client.whoami()
    assert "cannot be reached" in silent.value.reason
    assert [s.path for s in hub.faults.seen] == ["/api/whoami-v2"] * 2  # not five minutes long


Ask = Callable[[HubClient], object]
ANSWERS: dict[str, tuple[Fault | None, Ask, type[RegistryError], str]] = {
    "no repo": (None, lambda c: c.state("acme/none"), NotFound, "no Hub repo named 'acme/none'"),
    "no revision": (None, lambda c: c.state(REPO, "v9"), NotFound, "no Hub revision named 'acme/r@v9'"),
    "not an id": (None, lambda c: c.state("a/b/c"), HubError, "a/b/c: not a repo id"),
    "401": (Fault("status", status=401), lambda c: c.whoami(), HubError, "log in with `hf auth login`"),
    "403": (Fault("status", status=403), lambda c: c.set_access(REPO, private=True), HubError, "may not do this"),
    "507": (Fault("status", status=507), lambda c: c.create("acme/x", private=True), HubError, "storage quota"),
    "418": (Fault("status", status=418), lambda c: c.state(REPO), HubError, "418"),
    "upload down": (
        Fault("status", match="lfs", status=502, times=None),
        lambda c: c.commit(REPO, parent=head(c), add={"a.safetensors": tensors()}, message="m"),
        HubError,
        "the Hub answered 502",
    ),
    "blob refused": (
        Fault("status", match="PUT", status=403, times=None),
        lambda c: c.commit(REPO, parent=head(c), add={"a.safetensors": tensors()}, message="m"),
        HubError,
        "may not do this",
    ),
    "gone silent": (Fault("cut", times=None), lambda c: c.state(REPO), HubError, "cannot be reached"),
    "bad card": (
        None,
        lambda c: c.commit(REPO, parent=head(c), add={"README.md": b"---\nlicense: [\n---\n"}, message="m"),
        HubError,
        "Invalid metadata",
    ),
}


MODEL = {"id": REPO, "sha": "0" * 40, "private": False, "gated": False, "siblings": [], "tags": []}
FILE = {"rfilename": "a.json", "size": 2, "blobId": "b"}
MALFORMED: dict[str, tuple[str, object, Ask, str]] = {
    "no name": ("whoami", {"id": 1}, lambda c: c.whoami(), "makes no sense"),
    "a list": ("whoami", [], lambda c: c.whoami(), "makes no sense"),
    "not JSON": ("whoami", b"<html>", lambda c: c.whoami(), "not JSON"),
    "deep": ("whoami", b"[" * 200_000, lambda c: c.whoami(), "the Hub's answer"),
    "odd id": ("models", {**MODEL, "id": "../\x1b[31m"}, lambda c: c.state(REPO), "a repo id that is none"),
    "id is a number": ("models", {**MODEL, "id": 7}, lambda c: c.state(REPO), "a repo id that is none"),
    "no commit": ("models", {**MODEL, "sha": "main"}, lambda c: c.state(REPO), "a commit that is none"),
    "text size": (
        "models",
        {**MODEL, "siblings": [{**FILE, "size": "\u00b9"}]},
        lambda c: c.state(REPO),
        "a size that is none",
    ),
    "negative size": (
        "models",
        {**MODEL, "siblings": [{**FILE, "size": -1}]},
        lambda c: c.state(REPO),
        "a size that is none",
    ),
    "files are text": ("models", {**MODEL, "siblings": "none"}, lambda c: c.state(REPO), "makes no sense"),
    "no tags": ("refs", {"branches": []}, lambda c: c.tags(REPO), "makes no sense"),
    "odd listing": ("models", [{**MODEL, "id": None}], lambda c: list(c.listing(owner="acme")), "a repo id"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_answer_is_one_clear_line(hub: LocalHub, client: HubClient, case: str) -> None:
    match, body, ask, words = MALFORMED[case]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    hub.faults.add(Fault("answer", match=match, body=raw, times=None))
    with pytest.raises(HubError) as refused:
        ask(client)
    line = message(refused.value)
    assert words in line
    assert "\n" not in line
    assert "\x1b" not in line


@pytest.mark.parametrize("action", ["trickle", "trickle-head"])
def test_an_answer_without_end(
    hub: LocalHub, client: HubClient, monkeypatch: pytest.MonkeyPatch, action: Literal["trickle", "trickle-head"]
) -> None:
    """A byte now and then keeps every single read in time; the whole answer, headers included, has to end too."""
    monkeypatch.setattr("w2w_registry.hub.deadlines.DEADLINE", 0.2)
    hub.faults.add(Fault(action, match="whoami", seconds=0.02, times=None))
    with pytest.raises(HubError, match="did not end within"):
        client.whoami()


def test_a_file_whose_headers_never_end(hub: LocalHub, client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(hub, {"a.txt": b"x"})
    state = client.state(REPO)
    file = state.file("a.txt")
    assert file is not None
    monkeypatch.setattr("w2w_registry.hub.deadlines.DEADLINE", 0.2)
    hub.faults.add(Fault("trickle-head", match="resolve", seconds=0.02, times=None))
    with pytest.raises(HubError, match="did not end within"):
        client.read(REPO, state.commit, file)


def test_a_giant_answer(hub: LocalHub, client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2w_registry.hub.bounds.MOST_JSON", 1 << 20)
    hub.faults.add(Fault("answer", match="whoami", body=b'{"name": "' + b"x" * (2 << 20) + b'"}', times=None))
    with pytest.raises(HubError, match="longer than 1 MB"):
        client.whoami()


@pytest.mark.parametrize("asked", ["\u00b9", "9" * 400, "-1", "soon"])
def test_a_malformed_retry_after(hub: LocalHub, client: HubClient, naps: list[float], asked: str) -> None:
    hub.faults.add(Fault("status", match="whoami", status=429, headers={"Retry-After": asked}, times=None))
    with pytest.raises(HubError, match="rate limit"):
        client.whoami()
    assert all(nap <= 8 for nap in naps)


def test_other_traffic_of_the_process_is_not_bounded(hub: LocalHub, client: HubClient) -> None:
    from w2w_registry.hub.bounds import bound

    client.whoami()
    stream = object()
    request = types.SimpleNamespace(extensions={}, url=types.SimpleNamespace(path="/acme/model/resolve/main/x.bin"))
    response = types.SimpleNamespace(request=request, stream=stream)
    bound(response)
    assert response.stream is stream


@pytest.mark.usefixtures("no_library_waits")
@pytest.mark.parametrize("case", ANSWERS)
def test_each_refusal_is_one_clear_line(hub: LocalHub, client: HubClient, owner: User, case: str) -> None:
    client.create(REPO, private=True)
    fault, ask, kind, words = ANSWERS[case]
    if fault is not None:
        hub.faults.add(Fault(**{k: v for k, v in vars(fault).items() if k != "struck"}))
    with pytest.raises(kind) as refused:
        ask(client)
    line = message(refused.value)
    assert words in line
    assert "\n" not in line
    assert owner.token not in line


def test_gated_and_private_repos_say_what_to_do(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    client.create(REPO, private=False)
    made = client.commit(REPO, parent=head(client), add={"w.safetensors": tensors()}, message="one")
    client.set_access(REPO, gated=True)
    stranger = HubClient(hub.endpoint, token=hub.user("p0007").token, sleep=lambda s: None)
    files = [f for f in stranger.state(REPO).files if f.path == "w.safetensors"]
    with pytest.raises(HubError, match="gated") as gated:
        stranger.download(REPO, made, files, tmp_path)
    assert f"ask for access at {hub.endpoint}/{REPO}" in message(gated.value)
    client.set_access(REPO, private=True)
    with pytest.raises(NotFound):
        stranger.state(REPO)
    anonymous = HubClient(hub.endpoint, sleep=lambda s: None)
    with pytest.raises(HubError, match="no such repo, or a private one"):
        anonymous.state(REPO)
    with pytest.raises(HubError, match="no token"):
        anonymous.whoami()


def test_a_token_is_never_shown(hub: LocalHub, owner: User) -> None:
    client = HubClient(hub.endpoint, token=owner.token, sleep=lambda s: None)
    assert owner.token not in repr(client)
    leaky = plain(ValueError(f"sent Authorization: Bearer {owner.token} and hf_AbCdEfGhIjKl"), owner.token)
    assert owner.token not in leaky
    assert "hf_AbCd" not in leaky


def test_offline_mode_says_so(hub: LocalHub) -> None:
    off = connect(env={"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub.endpoint})
    assert isinstance(off, OfflineHub)
    for ask in (lambda: off.state(REPO), off.whoami, lambda: off.delete(REPO), lambda: off.listing(owner="acme")):
        with pytest.raises(HubError, match="offline mode is on"):
            ask()
    assert hub.faults.seen == ()


def test_where_the_endpoint_comes_from() -> None:
    assert connect(env={}).endpoint == "https://huggingface.co"
    assert connect("https://hub.example/", env={}).endpoint == "https://hub.example"
    assert connect("https://hub.example", env={"HF_ENDPOINT": "http://other"}).endpoint == "http://other"


# -- repos that mean harm ----------------------------------------------------------------------
def plant(hub: LocalHub, files: dict[str, bytes | Entry]) -> None:
    if hub.repo(REPO) is None:
        hub.store.create(next(iter(hub.store.users.values())), None, "r", "private")  # type: ignore[arg-type]
    hub.store.plant(REPO, files)


def lie(data: bytes, size: int | None = None, sha256: str | None = None) -> Entry:
    return Entry(data, True, sha256 or hashlib.sha256(data).hexdigest(), size)


HARM: dict[str, tuple[str, bytes | Entry, str]] = {
    "up": ("../up.safetensors", tensors(), "leads out of its folder"),
    "deep": ("a/../../up.safetensors", tensors(), "leads out of its folder"),
    "root": ("/etc/x.safetensors", tensors(), "leads out of its folder"),
    "windows": ("a\\..\\b.safetensors", tensors(), "leads out of its folder"),
    "drive": ("C:x.safetensors", tensors(), "leads out of its folder"),
    "home": ("~/x.safetensors", tensors(), "leads out of its folder"),
    "control": ("a\nb.safetensors", tensors(), "control characters"),
    "bidi": ("a\u202eb.safetensors", tensors(), "control characters"),
    "device": ("nul.safetensors", tensors(), "device"),
    "long": ("x" * 300 + ".safetensors", tensors(), "no file system"),
    "pickle": ("pytorch_lora_weights.bin", b"\x80\x04.", "could run code"),
    "pickle in disguise": ("w.safetensors", b"\x80\x04\x95\x10\0\0\0\0\0\0\0.....", "header claims"),
    "zip in disguise": ("w.safetensors", b"PK\3\4" + b"\0" * 4 + b"x" * 100, "header claims"),
    "huge header": ("w.safetensors", struct.pack("<Q", 100 << 30) + b"{" + b" " * 100, "header claims 107.4 GB"),
    "claims 100 GB": ("w.safetensors", lie(tensors(), 100 << 30), "claims 107.4 GB"),
    "claims 100 GB of JSON": ("w2w.json", Entry(b"{}", False, "", 100 << 30), "claims 107.4 GB"),
    "text in disguise": (
        "w.safetensors",
        b"\x10" + b"\0" * 7 + b"import os; os.system('x')" * 9,
        "not a safetensors file",
    ),
    "size understated": ("w.safetensors", lie(tensors(), 100), "digest"),
    "less than announced": ("w.safetensors", lie(tensors(), len(tensors()) + 50), "announced|cannot be reached"),
    "wrong digest": ("w.safetensors", lie(tensors(), sha256="0" * 64), "digest"),
    "empty": ("w.safetensors", b"", "too short"),
}


@pytest.mark.parametrize("case", HARM)
def test_harmful_files_are_refused(hub: LocalHub, client: HubClient, tmp_path: Path, case: str) -> None:
    path, content, words = HARM[case]
    plant(hub, {path: content})
    state = client.state(REPO)
    out = tmp_path / "deep" / "er" / "out"
    out.mkdir(parents=True)
    with pytest.raises((UnsafeRepo, HubError), match=words) as refused:
        client.download(REPO, state.commit, [f for f in state.files if f.path != ".gitattributes"], out)
    assert "\n" not in message(refused.value)
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and out not in p.parents]
    assert outside == []


def test_more_than_was_announced_is_refused(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    plant(hub, {"w.safetensors": tensors()})
    state = client.state(REPO)
    file = next(f for f in state.files if f.path == "w.safetensors")
    with pytest.raises(UnsafeRepo, match="more bytes than the 100 announced"):
        client.download(REPO, state.commit, [replace(file, size=100)], tmp_path)
    assert (tmp_path / "w.safetensors").stat().st_size <= 100


def test_names_that_fall_together_are_refused(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    plant(hub, {"W2W.json": b"{}", "w2w.json": b"{}"})
    state = client.state(REPO)
    with pytest.raises(UnsafeRepo, match="letter case"):
        client.download(REPO, state.commit, state.files, tmp_path)


def test_a_link_in_the_way_is_not_written_through(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    plant(hub, {"w2w.json": b"{}"})
    target, out = tmp_path / "victim", tmp_path / "out"
    target.write_bytes(b"precious")
    out.mkdir()
    (out / "w2w.json").symlink_to(target)
    state = client.state(REPO)
    with pytest.raises(StorageError):
        client.download(REPO, state.commit, [f for f in state.files if f.path == "w2w.json"], out)
    assert target.read_bytes() == b"precious"


def test_a_full_disk_is_told(hub: LocalHub, client: HubClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(hub, {"w2w.json": b"{}"})
    state = client.state(REPO)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("w2w_registry.hub.client.os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        client.download(REPO, state.commit, [f for f in state.files if f.path == "w2w.json"], tmp_path)
