"""A repository of an OCI registry as a Hub: each release a ModelPack artifact whose layers are its files.

A commit is a manifest, named by its SHA-256; the branch is the tag ``latest``, and a manifest names the one before it.
Who may see a repository is the host's to say and this module's to find out, by asking as anybody would. What could not
be taken down again is not published: a new repository shows first that the host deletes manifests and files.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from w2w_registry.errors import BadFile, Conflict, HubError, NotFound
from w2w_registry.hub.addresses import OCI, split_oci
from w2w_registry.hub.api import Account, Content, HubFile, Listed, Progress, RepoState, size_of
from w2w_registry.hub.bundle import CARD, HUB_TAG
from w2w_registry.hub.card import read_front_matter
from w2w_registry.hub.client_fetch import Arrival, Downloads
from w2w_registry.hub.oci_manifest import MANIFEST, Manifest, model_config
from w2w_registry.hub.oci_wire import Wire

BRANCH = "latest"
_FIRST = ".w2w"
"""The file a repository begins with; its first release takes the place of it."""
_GONE = (200, 202, 404)


class OciHub(Downloads):
    """The repositories of one host. Repo ids are whole addresses, ``oci://host/name``."""

    def __init__(self, host: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = f"{OCI}{host}"
        self._wire = Wire(host, sleep=sleep)
        self._anybody = Wire(host, anonymous=True, sleep=sleep)

    def __repr__(self) -> str:
        return f"OciHub({self.endpoint!r})"

    # -- reading -------------------------------------------------------------------------------
    def whoami(self) -> Account:
        raise HubError(repo=self.endpoint, reason="an OCI registry does not say who asks", status=401)

    def state(self, repo_id: str, revision: str | None = None) -> RepoState:
        name = self._name(repo_id)
        manifest = self._manifest(name, revision or BRANCH)
        if manifest is None:
            what = "OCI repository" if revision is None else "OCI tag or digest"
            raise NotFound(what=what, name=repo_id if revision is None else f"{repo_id}@{revision}")
        card = self._card(name, manifest)
        tags = (HUB_TAG,) if HUB_TAG in (card.get("tags") or ()) else ()
        open_to_all = self._open(name, manifest)
        return RepoState(repo_id, manifest.digest, not open_to_all, False, manifest.files, card, tags)

    def listing(self, *, owner: str | None = None, tags: Sequence[str] = ()) -> Iterator[Listed]:
        """Nothing: an OCI registry does not tell what it holds."""
        return iter(())

    def tags(self, repo_id: str) -> Mapping[str, str]:
        name = self._name(repo_id)
        found = {}
        for tag in self._tags(name):
            manifest = self._manifest(name, tag)
            if manifest is not None and tag != BRANCH:
                found[tag] = manifest.digest
        return found

    # -- writing -------------------------------------------------------------------------------
    def create(self, repo_id: str, *, private: bool) -> bool:
        name = self._name(repo_id)
        if self._manifest(name, BRANCH) is not None:
            return False
        manifest = self._put_empty(name)
        open_to_all = self._open(name, manifest)
        self._remove(name, [manifest])
        if open_to_all is private:
            problem = (
                "anybody may fetch what is in it; make it private at the host first, or publish with [[public]]"
                if private
                else "it asks who is there, so nothing in it is public; publish with [[private]]"
            )
            raise HubError(repo=repo_id, reason=problem, status=403)
        self._put_empty(name)
        return True

    def set_access(self, repo_id: str, *, private: bool | None = None, gated: bool | None = None) -> None:
        if gated:
            raise HubError(repo=repo_id, reason="an OCI registry has no gate", status=405)
        now = self.state(repo_id)
        if private is not None and private is not now.private:
            is_now, wanted = ("private", "public") if now.private else ("public", "private")
            raise HubError(
                repo=repo_id,
                reason=f"it is {is_now}, and the protocol cannot make it {wanted}",
                status=405,
                hint="change it at the host, or take it down with [[up-to]] delete",
            )

    def commit(
        self,
        repo_id: str,
        *,
        parent: str,
        add: Mapping[str, Content],
        delete: Iterable[str] = (),
        message: str,
        progress: Progress | None = None,
    ) -> str:
        name, gone = self._name(repo_id), {_FIRST, *delete}
        before = self._manifest(name, BRANCH)
        if before is None or before.digest != parent:
            raise Conflict(what="OCI repository", name=repo_id, reason="somebody else changed it meanwhile; try again")
        files = {f.path: f for f in before.files if f.path not in gone and f.path not in add}
        done, total = 0, sum(map(size_of, add.values()))
        for path, content in add.items():
            digest = self._wire.send(name, content)
            files[path] = HubFile(path, size_of(content), "", digest.removeprefix("sha256:"))
            done += size_of(content)
            if progress is not None:
                progress(done, total)
        made = self._put(name, tuple(files[path] for path in sorted(files)), parent, message)
        now = self._manifest(name, BRANCH)
        if now is None or now.digest != made.digest:
            raise Conflict(what="OCI repository", name=repo_id, reason="somebody else changed it meanwhile; try again")
        return made.digest

    def tag(self, repo_id: str, tag: str, commit: str) -> None:
        name = self._name(repo_id)
        there = self._manifest(name, tag)
        if there is not None and there.digest != commit:
            name = f"{repo_id}@{tag}"
            raise Conflict(what="OCI tag", name=name, reason="is taken by another manifest", found=there.digest)
        manifest = self._manifest(name, commit)
        if manifest is None:
            raise NotFound(what="OCI tag or digest", name=f"{repo_id}@{commit[:12]}")
        self._tag(name, manifest, tag)

    def untag(self, repo_id: str, tag: str) -> None:
        self._wire.ask("DELETE", f"/v2/{self._name(repo_id)}/manifests/{tag}", fine=_GONE)

    def erase_files(self, repo_id: str, keep: Mapping[str, bytes], message: str) -> None:
        name = self._name(repo_id)
        old = self._history(name)
        files = []
        for path, content in keep.items():
            digest = self._wire.send(name, content)
            files.append(HubFile(path, len(content), "", digest.removeprefix("sha256:")))
        # What is to go stays within reach of the branch until it is gone, so that a second try finds it.
        made = self._put(name, tuple(files), old[0].digest if old else "", message)
        self._remove(name, [m for m in old if m.digest != made.digest], kept=made)

    def delete(self, repo_id: str) -> bool:
        name = self._name(repo_id)
        old = self._history(name)
        self._remove(name, old)
        return bool(old)

    # -- manifests -----------------------------------------------------------------------------
    def _name(self, repo_id: str) -> str:
        host, name = split_oci(repo_id)
        if f"{OCI}{host}" != self.endpoint:
            raise HubError(repo=repo_id, reason=f"is not at {self.endpoint}", status=None)
        return name

    def _manifest(self, name: str, reference: str) -> Manifest | None:
        """A manifest by tag or digest, held against its digest; None when there is none."""
        wanted = f"sha256:{reference}" if _is_digest(reference) else reference
        path = f"/v2/{name}/manifests/{wanted}"
        answer = self._wire.ask("GET", path, fine=(200, 404), headers={"Accept": MANIFEST})
        if answer.status == 404:
            return None
        found = hashlib.sha256(answer.body).hexdigest()
        if wanted.startswith("sha256:") and wanted != f"sha256:{found}":
            raise HubError(repo=f"{self.endpoint}/{name}", reason="a manifest is not what its digest says", status=None)
        try:
            return Manifest.parse(answer.body)
        except ValueError as error:
            reason = f"what is tagged {reference} is no artifact of files ({error})"
            raise HubError(repo=f"{self.endpoint}/{name}", reason=reason, status=None) from None

    def _put(self, name: str, files: tuple[HubFile, ...], parent: str, message: str) -> Manifest:
        """Upload a manifest of ``files`` and let the branch point to it."""
        config = model_config(files)
        self._wire.send(name, config)
        manifest = Manifest.make(config, files, parent, message)
        self._tag(name, manifest, BRANCH)
        return manifest

    def _put_empty(self, name: str) -> Manifest:
        """What a repository begins with: one file of random bytes, which nothing else on the host refers to."""
        opener = f"{secrets.token_hex(16)}\n".encode()
        digest = self._wire.send(name, opener)
        files = (HubFile(_FIRST, len(opener), "", digest.removeprefix("sha256:")),)
        return self._put(name, files, "", "Begin")

    def _tag(self, name: str, manifest: Manifest, tag: str) -> None:
        headers = {"Content-Type": MANIFEST}
        self._wire.ask("PUT", f"/v2/{name}/manifests/{tag}", fine=(201,), headers=headers, data=manifest.data)

    def _tags(self, name: str) -> list[str]:
        found: list[str] = []
        path = f"/v2/{name}/tags/list?n=1000"
        for _ in range(100):
            answer = self._wire.ask("GET", path, fine=(200, 404))
            if answer.status == 404:
                return found
            try:
                found += Manifest.tags_in(answer.body)
            except ValueError as error:
                reason = f"its list of tags makes no sense ({error})"
                raise HubError(repo=f"{self.endpoint}/{name}", reason=reason, status=None) from None
            link = answer.headers.get("Link", "")
            if 'rel="next"' not in link:
                return found
            path = link[link.find("<") + 1 : link.find(">")]
        raise HubError(repo=f"{self.endpoint}/{name}", reason="its list of tags does not end", status=None)

    def _history(self, name: str) -> list[Manifest]:
        """Every manifest that a tag or a later manifest leads to, the branch's first, each before what it leads to."""
        waiting, seen, found = [*self._tags(name), BRANCH], set[str](), []
        while waiting:
            manifest = self._manifest(name, waiting.pop())
            if manifest is None or manifest.digest in seen:
                continue
            seen.add(manifest.digest)
            found.append(manifest)
            if manifest.parent:
                waiting.append(manifest.parent)
        return found

    def _remove(self, name: str, manifests: Sequence[Manifest], kept: Manifest | None = None) -> None:
        """Delete manifests with their tags and files, and see that they are gone; what ``kept`` refers to stays.

        Files go first and a manifest before whatever leads to it: what a failure leaves can be found again.

        Raises:
            HubError: the host does not delete.
        """
        repo, stay = f"{self.endpoint}/{name}", frozenset() if kept is None else kept.blobs
        for blob in sorted({b for manifest in manifests for b in manifest.blobs} - stay):
            self._delete(repo, f"/v2/{name}/blobs/sha256:{blob}")
        for manifest in reversed(manifests):
            self._delete(repo, f"/v2/{name}/manifests/sha256:{manifest.digest}")

    def _delete(self, repo: str, path: str) -> None:
        what = "manifests" if "/manifests/" in path else "files"
        answer = self._wire.ask("DELETE", path, fine=(*_GONE, 400, 401, 403, 405))
        if answer.status not in _GONE:
            reason = f"it does not let {what} be deleted, so nothing published there could be taken down again"
            raise HubError(repo=repo, reason=reason, status=answer.status)
        if self._wire.ask("HEAD", path, fine=(200, 404), headers={"Accept": MANIFEST}).status != 404:
            raise HubError(repo=repo, reason=f"{what} it says it deleted are still there", status=None)

    # -- what anybody sees ---------------------------------------------------------------------
    def _open(self, name: str, manifest: Manifest) -> bool:
        """Whether somebody without credentials may fetch a manifest, or a file of one: a host may guard them apart."""
        paths = [f"/v2/{name}/manifests/sha256:{manifest.digest}", f"/v2/{name}/blobs/sha256:{manifest.config}"]
        fine = (200, 401, 403, 404)
        return any(
            self._anybody.ask("HEAD", path, fine=fine, headers={"Accept": MANIFEST}).status == 200 for path in paths
        )

    def _card(self, name: str, manifest: Manifest) -> Mapping[str, Any]:
        file = next((f for f in manifest.files if f.path == CARD), None)
        if file is None:
            return {}
        try:
            return read_front_matter(self.read(f"{self.endpoint}/{name}", manifest.digest, file))
        except BadFile:
            return {}

    def _fetch(self, commit: str, arrival: Arrival) -> None:
        assert arrival.file.sha256 is not None
        _, name = split_oci(arrival.repo)
        self._wire.fetch(name, f"sha256:{arrival.file.sha256}", arrival.file.size, arrival.take)
        arrival.finish()


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)
