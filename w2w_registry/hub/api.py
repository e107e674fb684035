"""What the registry asks of a Hub: values and one protocol. No network here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Content = bytes | Path
"""What a file of a commit holds: bytes, or a local file for what is too large to keep in memory."""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True)
class Account:
    """Who the token belongs to, and where that user may write."""

    name: str
    orgs: tuple[str, ...] = ()


@dataclass(frozen=True)
class HubFile:
    """One file of a repo at a commit. ``sha256`` is known for LFS files only, ``blob_id`` (git's SHA-1) for all."""

    path: str
    size: int
    blob_id: str
    sha256: str | None = None

    def holds(self, digests: Digests) -> bool:
        """Whether the file's content is the one ``digests`` was taken of."""
        return self.sha256 == digests.sha256 if self.sha256 is not None else self.blob_id == digests.git


@dataclass(frozen=True)
class RepoState:
    """A repo as the Hub shows it at one commit. ``repo_id`` is its present name, also when asked under an old one."""

    repo_id: str
    commit: str
    private: bool
    gated: bool
    files: tuple[HubFile, ...]
    card: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    def file(self, path: str) -> HubFile | None:
        return next((f for f in self.files if f.path == path), None)


@dataclass(frozen=True)
class Listed:
    """A repo in a listing."""

    repo_id: str
    commit: str | None
    private: bool
    gated: bool
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Digests:
    """Both names the Hub may know a content by: SHA-256 (LFS) and git's SHA-1 of the blob (the rest)."""

    sha256: str
    git: str

    @classmethod
    def of(cls, content: Content) -> Digests:
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        sha, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        for chunk in _chunks(content):
            sha.update(chunk)
            git.update(chunk)
        return cls(sha.hexdigest(), git.hexdigest())


def _chunks(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as stream:
        while chunk := stream.read(1 << 20):
            yield chunk


def size_of(content: Content) -> int:
    """Bytes of a content."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


class Hub(Protocol):
    """A Hub. Every method raises ``HubError`` (or ``NotFound``, ``Conflict``) with one reason, never the library's own.

    Methods that change something are safe to call again after a failure.
    """

    @property
    def endpoint(self) -> str: ...

    def whoami(self) -> Account:
        """Whose token this is. Raises HubError when there is none or it is refused."""

    def state(self, repo_id: str, revision: str | None = None) -> RepoState:
        """The repo at ``revision`` (None: its main branch). Raises NotFound: not there, or not for this token."""

    def listing(self, *, owner: str | None = None, tags: Sequence[str] = ()) -> Iterator[Listed]:
        """Repos this token may see."""

    def tags(self, repo_id: str) -> Mapping[str, str]:
        """Tag name → commit."""

    def create(self, repo_id: str, *, private: bool) -> bool:
        """Make the repo; False when it was there already (its visibility stays as it is)."""

    def set_access(self, repo_id: str, *, private: bool | None = None, gated: bool | None = None) -> None:
        """Change who may see and fetch."""

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
        """One commit on top of ``parent``; returns its id. When the answer is lost, the Hub is asked whether the
        commit landed before anything is tried again, so that one call makes one commit.

        Raises:
            Conflict: the branch moved on from ``parent``.
        """

    def tag(self, repo_id: str, tag: str, commit: str) -> None:
        """Name a commit. A tag of that name on the same commit is fine; on another one: Conflict."""

    def untag(self, repo_id: str, tag: str) -> None:
        """Remove a tag; nothing when there is none."""

    def read(self, repo_id: str, commit: str, file: HubFile) -> bytes:
        """One small file, checked against its digest."""

    def download(
        self, repo_id: str, commit: str, files: Sequence[HubFile], folder: Path, progress: Progress | None = None
    ) -> None:
        """Fetch ``files`` into the existing ``folder``, resumed when cut, each checked against size and digest.

        Raises:
            UnsafeRepo: a name, size, header or digest that is not as announced. StorageError: it cannot be
            written.
        """

    def erase_files(self, repo_id: str, keep: Mapping[str, bytes], message: str) -> None:
        """Remove every file for good, from history too; only ``keep`` remains, in one commit without a past."""

    def delete(self, repo_id: str) -> bool:
        """Delete the repo; False when it was gone already."""
