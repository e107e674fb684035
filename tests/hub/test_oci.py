"""An OCI registry as a Hub: what is published can be seen, fetched, held against its digests, and taken back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hub.local_oci import LocalOci
from w2w_registry.errors import BadName, Conflict, HubError, NotFound, UnsafeRepo
from w2w_registry.hub import oci_wire
from w2w_registry.hub.addresses import check_repo_id, owner_of, parse_repo
from w2w_registry.hub.api import Digests, Hub, HubFile
from w2w_registry.hub.bundle import HUB_TAG
from w2w_registry.hub.oci import OciHub
from w2w_registry.hub.oci_manifest import Manifest

FILES = {"README.md": b"---\ntags:\n- w2w-registry\n---\n# A\n", "w2w.json": b"{}", "a/b.txt": b"\x08" * 99}
NAME = "acme/alice-lora"


@pytest.fixture
def oci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalOci]:
    with LocalOci() as running:
        enter(running, tmp_path, monkeypatch)
        yield running


def enter(running: LocalOci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running.log_in(tmp_path / "docker")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))


def hub_of(oci: LocalOci) -> OciHub:
    return OciHub(oci.host, sleep=lambda seconds: None)


def publish(hub: Hub, repo: str, files: dict[str, bytes] | None = None, *, private: bool = True) -> str:
    hub.create(repo, private=private)
    return hub.commit(repo, parent=hub.state(repo).commit, add=files or FILES, message="Publish version 1")


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_a_release_comes_back_as_it_went(
    auth: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: Path
) -> None:
    with LocalOci(auth) as oci:
        enter(oci, tmp_path, monkeypatch)
        hub, repo = hub_of(oci), oci.address(NAME)
        assert hub.create(repo, private=True)
        assert not hub.create(repo, private=True)
        commit = hub.commit(repo, parent=hub.state(repo).commit, add={**FILES, "big.safetensors": large}, message="m")
        hub.tag(repo, "v1", commit)
        hub.tag(repo, "v1", commit)
        state = hub.state(repo, "v1")
        assert {f.path for f in state.files} == {*FILES, "big.safetensors"}
        assert (state.commit, state.private, state.gated) == (commit, True, False)
        assert state.tags == (HUB_TAG,)
        assert hub.tags(repo) == {"v1": commit}
        (tmp_path / "out").mkdir()
        arrived: list[int] = []
        hub.download(repo, commit, state.files, tmp_path / "out", lambda done, total: arrived.append(done))
        for path, content in FILES.items():
            assert (tmp_path / "out" / path).read_bytes() == content
            file = state.file(path)
            assert file is not None
            assert file.holds(Digests.of(content))
        assert (tmp_path / "out" / "big.safetensors").read_bytes() == large.read_bytes()
        assert arrived[-1] == sum(f.size for f in state.files)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A safetensors file of some chunks."""
    header = b'{"a":{"dtype":"U8","shape":[300000],"data_offsets":[0,300000]}}'
    path = tmp_path / "large.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(300000))
    return path


def test_the_protocols_own_client_reads_it(oci: LocalOci, tmp_path: Path) -> None:
    import oras.client

    publish(hub_of(oci), oci.address(NAME))
    client = oras.client.OrasClient(hostname=oci.host, insecure=True, auth_backend="basic")
    client.auth.set_basic_auth("acme", "secret")
    got = client.pull(target=f"{oci.host}/{NAME}:latest", outdir=str(tmp_path / "out"))
    assert len(got) == len(FILES)
    for path, content in FILES.items():
        assert (tmp_path / "out" / path).read_bytes() == content


def test_a_second_commit_stands_on_the_first(oci: LocalOci) -> None:
    hub, repo = hub_of(oci), oci.address(NAME)
    first = publish(hub, repo)
    second = hub.commit(repo, parent=first, add={"c.json": b"3"}, delete=["w2w.json"], message="m")
    assert {f.path for f in hub.state(repo).files} == {"README.md", "a/b.txt", "c.json"}
    assert {f.path for f in hub.state(repo, first).files} == set(FILES)
    with pytest.raises(Conflict):
        hub.commit(repo, parent=first, add={"c.json": b"4"}, message="m")
    hub.tag(repo, "v1", first)
    with pytest.raises(Conflict):
        hub.tag(repo, "v1", second)
    hub.untag(repo, "v1")
    assert hub.tags(repo) == {}


@pytest.mark.parametrize("step", ["erase", "delete"])
def test_taken_down_is_gone(oci: LocalOci, step: str) -> None:
    """Every manifest, tagged or only led to, and every file of them; what the card keeps stays."""
    hub, repo = hub_of(oci), oci.address(NAME)
    first = publish(hub, repo)
    for number in range(4):  # more tags than the server lists on a page
        first = hub.commit(repo, parent=first, add={"a/b.txt": b"\x08" * 50 + b"%d" % number}, message="m")
        if number != 1:
            hub.tag(repo, f"v{number}", first)
    if step == "delete":
        assert hub.delete(repo)
        assert not hub.delete(repo)
        with pytest.raises(NotFound):
            hub.state(repo)
        assert not oci.repositories[NAME].blobs
        return
    hub.erase_files(repo, {"README.md": b"removed"}, "Remove the content")
    assert [f.path for f in hub.state(repo).files] == ["README.md"]
    assert hub.tags(repo) == {}
    assert not oci.holds(b"\x08" * 50)
    assert len(oci.repositories[NAME].manifests) == 1


def test_who_may_see_it_is_found_out_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that shows everything to everybody takes no likeness; one that asks takes nothing that is to be public."""
    with LocalOci(anonymous=True) as oci:
        enter(oci, tmp_path, monkeypatch)
        hub, repo = hub_of(oci), oci.address(NAME)
        with pytest.raises(HubError, match="anybody may fetch"):
            hub.create(repo, private=True)
        assert not oci.repositories[NAME].blobs
        publish(hub, repo, private=False)
        assert not hub.state(repo).private
        hub.set_access(repo, private=False)
        with pytest.raises(HubError, match="cannot make it private"):
            hub.set_access(repo, private=True)
        with pytest.raises(HubError, match="no gate"):
            hub.set_access(repo, gated=True)


def test_files_that_anybody_may_fetch_are_not_private(oci: LocalOci) -> None:
    oci.open_files = True
    with pytest.raises(HubError, match="anybody may fetch"):
        hub_of(oci).create(oci.address(NAME), private=True)


def test_nobody_is_somebody_else_by_a_file_of_passwords(oci: LocalOci, tmp_path: Path) -> None:
    """``.netrc`` neither lets the anonymous in nor takes the place of what was logged in with."""
    for password in ("secret", "wrong"):
        (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login acme password {password}\n")
        (tmp_path / ".netrc").chmod(0o600)
        hub = hub_of(oci)
        hub.create(oci.address(NAME), private=True)
        assert hub.state(oci.address(NAME)).private


def test_a_large_file_that_stays_is_said_to_stay(oci: LocalOci, tmp_path: Path) -> None:
    hub, repo = hub_of(oci), oci.address(NAME)
    publish(hub, repo, {"big.txt": b"x" * (oci_wire.MOST_ANSWER + 1)})

    def keeps(handler: Any) -> bool:
        if handler.command != "DELETE" or "/blobs/" not in handler.path:
            return False
        handler.reply(202)
        return True

    oci.misbehave = keeps
    with pytest.raises(HubError, match="still there"):
        hub.delete(repo)


def test_closed_hosts_publish_nothing(oci: LocalOci) -> None:
    with pytest.raises(HubError, match="nothing in it is public"):
        hub_of(oci).create(oci.address(NAME), private=False)


@pytest.mark.parametrize("kept", ["manifests", "blobs"])
def test_what_cannot_be_deleted_is_not_published(oci: LocalOci, kept: str) -> None:
    setattr(oci, f"deletes_{kept}", False)
    with pytest.raises(HubError, match="deleted, so nothing published there could be taken down again"):
        hub_of(oci).create(oci.address(NAME), private=True)


def test_without_credentials(oci: LocalOci, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    with pytest.raises(HubError, match="asks who is there") as found:
        hub_of(oci).state(oci.address(NAME))
    assert "docker login" in found.value.fields["hint"]


# -- hosts that misbehave ----------------------------------------------------------------------
def manifest_of(oci: LocalOci) -> dict[str, bytes]:
    return oci.repositories[NAME].manifests


def test_content_that_is_not_what_was_announced(oci: LocalOci, tmp_path: Path) -> None:
    hub, repo = hub_of(oci), oci.address(NAME)
    commit = publish(hub, repo)
    there = oci.repositories[NAME]
    digest = f"sha256:{hashlib.sha256(FILES['w2w.json']).hexdigest()}"
    for wrong in (b"[]", b"{}{}", b"{"):
        there.blobs[digest] = wrong
        with pytest.raises(UnsafeRepo):
            hub.read(repo, commit, HubFile("w2w.json", 2, "", digest.removeprefix("sha256:")))
    there.manifests[f"sha256:{commit}"] = there.manifests[f"sha256:{commit}"].replace(b"README", b"readme")
    with pytest.raises(HubError, match="not what its digest says"):
        hub.state(repo, commit)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"config":{}}',
        b"[" * 100_000,
        b'{"config":{"digest":"md5:1"},"layers":[]}',
        b'{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json"}',
        b'{"config":{"digest":"sha256:%s"},"layers":[{"digest":"sha256:%s","size":1}]}' % (b"0" * 64, b"0" * 64),
        b"x" * (oci_wire.MOST_ANSWER + 1),
    ],
    ids=["nothing", "list", "empty", "config", "deep", "md5", "index", "unnamed", "endless"],
)
def test_manifests_that_are_none(oci: LocalOci, body: bytes) -> None:
    def misbehave(handler: Any) -> bool:
        handler.reply(200, body, Content_Type="application/vnd.oci.image.manifest.v1+json")
        return True

    oci.misbehave = misbehave
    with pytest.raises(HubError):
        hub_of(oci).state(oci.address(NAME))


def test_down_for_a_while(oci: LocalOci) -> None:
    failures = iter([503, 429, 500])

    def misbehave(handler: Any) -> bool:
        status = next(failures, None)
        if status is not None:
            handler.error(status, "UNAVAILABLE")
        return status is not None

    publish(hub_of(oci), oci.address(NAME))
    oci.misbehave = misbehave
    assert hub_of(oci).state(oci.address(NAME)).private


def test_an_answer_that_never_ends(oci: LocalOci, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_wire, "DEADLINE", 0.5)

    def misbehave(handler: Any) -> bool:
        with suppress(OSError):  # the client went away
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.01)
        handler.close_connection = True
        return True

    oci.misbehave = misbehave
    with pytest.raises(HubError, match="did not end within"):
        hub_of(oci).state(oci.address(NAME))


def test_uploads_stay_on_the_host(oci: LocalOci) -> None:
    def misbehave(handler: Any) -> bool:
        if handler.command != "POST":
            return False
        handler.reply(202, Location="http://127.0.0.2:1/steal")
        return True

    oci.misbehave = misbehave
    with pytest.raises(HubError, match="another host"):
        hub_of(oci).create(oci.address(NAME), private=True)


# -- addresses and manifests -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("oci://ghcr.io/acme/alice", "oci://ghcr.io/acme/alice", None),
        ("oci://localhost:5000/alice:v1", "oci://localhost:5000/alice", "v1"),
        ("oci://localhost:5000/a/b/c@v1.2", "oci://localhost:5000/a/b/c", "v1.2"),
        ("oci://h/a@sha256:" + "0" * 64, "oci://h/a", "sha256:" + "0" * 64),
    ],
)
def test_addresses(text: str, repo: str, revision: str | None) -> None:
    assert parse_repo(text) == (repo, revision)
    assert owner_of(repo) == repo.rpartition("/")[0]


@pytest.mark.parametrize(
    "text",
    ["oci://", "oci://host", "oci://host/", "oci://Host/a", "oci://h/A", "oci://h/a//b", "oci://h/../b", "oci://u:p@h/a",
     "oci://h/a?x", "oci://h/a#x", "oci://h:port/a", "oci:///a", "oci://h/a b", "oci://h/" + "a" * 300],
)  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(BadName):
        check_repo_id(text)


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=20), max_size=5), st.booleans())
def test_a_manifest_says_what_it_was_made_of(files: dict[str, bytes], grown: bool) -> None:
    listed = tuple(HubFile(p, len(c), "", hashlib.sha256(c).hexdigest()) for p, c in files.items())
    parent = "ab" * 32 if grown else ""
    made = Manifest.make(b"{}", listed, parent, "message")
    assert Manifest.parse(made.data) == made
    assert (made.files, made.parent) == (listed, parent)
    assert made.blobs == {hashlib.sha256(b"{}").hexdigest(), *(f.sha256 for f in listed)}
