"""What a pull is asked, fetches and says: values shared by its two ways in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from w2w_registry.catalog.models import InputKind, Version
from w2w_registry.catalog.publications import record_release, release_at
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.errors import NotFound
from w2w_registry.hub.adapter_release import AdapterDocument
from w2w_registry.hub.api import Hub, RepoState
from w2w_registry.hub.bundle import Document
from w2w_registry.hub.plan import Access
from w2w_registry.records import IdentityRef, Result, digest_of
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.identities.items import Item
from w2w_registry.services.recording.versions import Input
from w2w_registry.services.registry import Registry, present


@dataclass(frozen=True)
class PullRequest:
    """What ``w2w-reg pull`` was asked. ``file``: the one LoRA wanted from a repo that holds several. ``pipeline``: the
    base model's folder, to see what it draws (default: where it is known to lie). ``labels``, ``suggested`` and
    ``manifest`` are what the release itself says: of the file, its name, and the digest of its manifest here;
    ``brings`` writes what else came along, and ``noted`` what became of it, with the version or not at all."""

    repo: str
    name: str | None = None
    space: str | None = None
    kind: str | None = None
    subjects: Sequence[str] = ()
    base_model: str | None = None
    file: str | None = None
    dry_run: bool = False
    pipeline: str | None = None
    labels: Mapping[str, float | str] = field(default_factory=dict)
    suggested: str | None = None
    manifest: str | None = None
    brings: Callable[[UnitOfWork], object] | None = None
    noted: Callable[[UnitOfWork, Item], object] | None = None


@dataclass(frozen=True, eq=False)
class PullReport(Result):
    """What a pull did. ``status``: added or existing; ``ours``: it was a release of a registry like this one."""

    repo: str
    commit: str
    ours: bool
    status: str
    version: str | None
    space: str | None
    residual: float | None
    consent: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Fetched:
    """What came from a repo: its state, its document when it is ours (``document`` with a point in a weight space,
    ``adapter`` without), and a folder with the checked files.

    ``digests``: path → SHA-256 of the files in it.
    """

    state: RepoState
    document: Document | None
    folder: Path
    lora: Path | None
    consent: bytes | None
    digests: Mapping[str, str]
    adapter: AdapterDocument | None = None

    @property
    def origin(self) -> Input:
        """The repo as an input of the operation: its commit names the content."""
        return Input(
            "repo", InputKind.HUB, digest=digest_of(self._listing), ref=f"{self.state.repo_id}@{self.state.commit}"
        )

    @property
    def _listing(self) -> list[list[str]]:
        return sorted([f.path, f.sha256 or f.blob_id] for f in self.state.files)


def consent_word(registry: Registry, name: str, number: int) -> str:
    """The state of a version's consent, in a word."""
    with registry.catalog.read() as session:
        try:
            version = version_for(session, IdentityRef(name, number), any_state=True).id
        except NotFound:
            return "unknown"
        return str(consent_states(session, [version], present(session), gate.rules_of(registry, session))[version])


def know_release(uow: UnitOfWork, hub: Hub, fetched: Fetched, version: Version) -> None:
    """The repo it came from is a release of this version, to be kept in step and taken down with it."""
    state = fetched.state
    if release_at(uow.session, hub.endpoint, state.repo_id, state.commit) is not None:
        return
    record_release(
        uow,
        endpoint=hub.endpoint,
        repo_id=state.repo_id,
        commit_id=state.commit,
        version_id=version.id,
        revision="main",
        **Access.of(private=state.private, gated=state.gated).words,
        format="pulled",
        digests={f.path: f.sha256 for f in state.files if f.sha256 is not None},
    )
