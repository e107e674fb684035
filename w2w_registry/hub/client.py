"""The Hub through huggingface_hub: with ``client_errors`` and ``client_fetch`` the only modules that import it.

Thin on purpose: one library call per method, plus what the library leaves open. It retries uploads of blobs and
listings by itself (``http_backoff``); everything else is retried here, bounded, on 429, 5xx and broken connections.
Its errors become the registry's, with one reason each. The token comes from the library's usual places
(``HF_TOKEN``, ``hf auth login``) and is kept out of every message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from w2w_registry.errors import Conflict, HubError, NotFound, RegistryError
from w2w_registry.hub import deadlines
from w2w_registry.hub.api import Account, Content, Digests, Hub, Listed, Progress, RepoState, size_of
from w2w_registry.hub.bounds import bound, commit_of, hub_file, repo_id_of, tag_of
from w2w_registry.hub.client_errors import from_network, offline, translate, wait_before_retry
from w2w_registry.hub.client_fetch import Arrival, Downloads, fetch, session

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
Sleep = Callable[[float], None]

ATTEMPTS = 5
TIMEOUT = 60.0
SILENT = 2
"""A question that the Hub says nothing to, for so long each time, is asked so often."""
_LARGE_UPLOAD = 8 << 20


def connect(
    endpoint: str | None = None,
    *,
    env: Mapping[str, str] = os.environ,
    token: str | None = None,
    sleep: Sleep = time.sleep,
) -> Hub:
    """The Hub to talk to: ``HF_ENDPOINT``, else ``endpoint`` (registry.toml's ``[hub]``), else huggingface.co.

    With ``HF_HUB_OFFLINE`` set, a Hub that answers every question with a clear refusal.
    """
    where = env.get("HF_ENDPOINT") or endpoint or "https://huggingface.co"
    if env.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}:
        return OfflineHub(where)
    return HubClient(where, token=token, sleep=sleep)


class OfflineHub:
    """The Hub in offline mode: nothing is asked of the network, and every call says so."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint.rstrip("/")

    def _refuse(self, *args: Any, **options: Any) -> Any:
        repo = args[0] if args and isinstance(args[0], str) else self.endpoint
        raise offline(repo)

    whoami = state = listing = tags = create = set_access = commit = tag = untag = _refuse
    read = download = erase_files = delete = _refuse


class HubClient(Downloads):
    """A Hub reached over HTTP. ``token=None`` takes it from the usual places at every call."""

    def __init__(
        self, endpoint: str, *, token: str | None = None, sleep: Sleep = time.sleep, attempts: int = ATTEMPTS
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        self._sleep = sleep
        self._attempts = attempts
        self._made: HfApi | None = None

    def __repr__(self) -> str:
        return f"HubClient({self.endpoint!r})"

    # -- reading -------------------------------------------------------------------------------
    def whoami(self) -> Account:
        def ask(api: HfApi) -> Account:
            data = api.whoami()
            return Account(repo_id_of(data["name"]), tuple(repo_id_of(o["name"]) for o in data.get("orgs", ())))

        return self._call(self.endpoint, ask)

    def state(self, repo_id: str, revision: str | None = None) -> RepoState:
        def ask(api: HfApi) -> RepoState:
            info = api.model_info(repo_id, revision=revision, files_metadata=True)
            files = tuple(hub_file(sibling) for sibling in info.siblings or ())
            card: dict[str, Any] = info.card_data.to_dict() if info.card_data is not None else {}  # type: ignore[no-untyped-call]
            access = bool(info.private), bool(info.gated)
            return RepoState(repo_id_of(info.id), commit_of(info.sha), *access, files, card, tuple(info.tags or ()))

        return self._call(repo_id, ask, revision)

    def listing(self, *, owner: str | None = None, tags: Sequence[str] = ()) -> Iterator[Listed]:
        def ask(api: HfApi) -> list[Listed]:
            found = api.list_models(author=owner, filter=list(tags) or None, full=True)
            return [
                Listed(
                    repo_id_of(info.id),
                    None if info.sha is None else commit_of(info.sha),
                    bool(info.private),
                    bool(info.gated),
                    tuple(info.tags or ()),
                )
                for info in found
            ]

        yield from self._call(owner or self.endpoint, ask, retry=False)

    def tags(self, repo_id: str) -> Mapping[str, str]:
        def ask(api: HfApi) -> Mapping[str, str]:
            return {tag_of(t.name): commit_of(t.target_commit) for t in api.list_repo_refs(repo_id).tags}

        return self._call(repo_id, ask)

    # -- writing -------------------------------------------------------------------------------
    def create(self, repo_id: str, *, private: bool) -> bool:
        try:
            self._call(repo_id, lambda api: api.create_repo(repo_id, private=private))
        except Conflict:
            return False
        return True

    def set_access(self, repo_id: str, *, private: bool | None = None, gated: bool | None = None) -> None:
        gate: Any = None if gated is None else ("manual" if gated else False)
        self._call(repo_id, lambda api: api.update_repo_settings(repo_id, private=private, gated=gate))

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
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        gone = tuple(delete)
        additions = [
            CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
            for path, content in add.items()
        ]
        self._upload(repo_id, additions, [size_of(c) for c in add.values()], progress)
        deletions = [CommitOperationDelete(path, is_folder=False) for path in gone]
        digests = {path: Digests.of(content) for path, content in add.items()}

        def attempt(api: HfApi) -> str:
            made = api.create_commit(
                repo_id,
                [*additions, *deletions],
                commit_message=message,
                parent_commit=parent,
            )
            return made.oid

        def landed() -> str | None:
            now = self.state(repo_id)
            if now.commit == parent:
                return None
            there = {f.path: f for f in now.files}
            same = all(p in there and there[p].holds(d) for p, d in digests.items())
            if same and not any(p in there for p in gone):
                return now.commit
            raise Conflict(what="Hub repo", name=repo_id, reason="somebody else committed to it meanwhile; try again")

        return self._call(repo_id, attempt, after_failure=landed)

    def _upload(self, repo_id: str, additions: Sequence[Any], sizes: Sequence[int], progress: Progress | None) -> None:
        """Send the blobs ahead of the commit, large ones one by one. The library retries and skips those it sent."""
        sized = list(zip(additions, sizes, strict=True))
        small = [(a, size) for a, size in sized if size < _LARGE_UPLOAD]
        groups = [small] if small else []
        groups += [[(a, size)] for a, size in sized if size >= _LARGE_UPLOAD]
        done = 0
        for group in groups:

            def send(api: HfApi, group: list[tuple[Any, int]] = group) -> None:
                api.preupload_lfs_files(repo_id, [a for a, _ in group], free_memory=False)

            self._call(repo_id, send, retry=False)
            done += sum(size for _, size in group)
            if progress is not None:
                progress(done, sum(sizes))

    def tag(self, repo_id: str, tag: str, commit: str) -> None:
        try:
            self._call(repo_id, lambda api: api.create_tag(repo_id, tag=tag, revision=commit))
        except Conflict:
            found = self.tags(repo_id).get(tag)
            if found != commit:
                raise Conflict(
                    what="Hub tag", name=f"{repo_id}@{tag}", reason="is taken by another commit", found=found
                ) from None

    def untag(self, repo_id: str, tag: str) -> None:
        try:
            self._call(repo_id, lambda api: api.delete_tag(repo_id, tag=tag))
        except NotFound:
            if tag in self.tags(repo_id):
                raise

    def erase_files(self, repo_id: str, keep: Mapping[str, bytes], message: str) -> None:
        # Tags keep old commits alive, so they go first; then the tree, then LFS content, then the history.
        for tag in self.tags(repo_id):
            self.untag(repo_id, tag)
        now = self.state(repo_id)
        kept = {path: Digests.of(content) for path, content in keep.items()}
        there = {f.path: f for f in now.files}
        extra = [p for p in there if p not in kept and p != ".gitattributes"]
        missing = {p: c for p, c in keep.items() if p not in there or not there[p].holds(kept[p])}
        if extra or missing:
            self.commit(repo_id, parent=now.commit, add=missing, delete=extra, message=message)
        lfs = self._call(repo_id, lambda api: list(api.list_lfs_files(repo_id)), retry=False)
        if lfs:
            self._call(repo_id, lambda api: api.permanently_delete_lfs_files(repo_id, lfs))
        self._call(repo_id, lambda api: api.super_squash_history(repo_id, commit_message=message))
        left = self._call(repo_id, lambda api: list(api.list_lfs_files(repo_id)), retry=False)
        if left:
            raise HubError(repo=repo_id, reason=f"{len(left)} files are still in its storage", status=None)

    def delete(self, repo_id: str) -> bool:
        try:
            self._call(repo_id, lambda api: api.delete_repo(repo_id))
        except NotFound:
            return False
        return True

    # -- one call ------------------------------------------------------------------------------
    @property
    def _api(self) -> HfApi:
        if self._made is None:
            from huggingface_hub import HfApi
            from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

            # Its warnings about retries and its bars would drown the one line a command prints.
            logging.set_verbosity_error()  # type: ignore[no-untyped-call]
            disable_progress_bars()
            self._made = HfApi(endpoint=self.endpoint, token=self._token, library_name="w2w-registry")
        # The library sets no timeout of its own: a silent Hub would hang a command for ever. Its session is made
        # anew after some failures, hence here and not once.
        shared = session()
        shared.timeout = TIMEOUT
        hooks = shared.event_hooks
        if bound not in hooks["response"]:
            shared.event_hooks = {
                "request": [*hooks["request"], deadlines.begin],
                "response": [*hooks["response"], bound],
            }
            deadlines.watch(shared)
        return self._made

    def _call(
        self,
        repo: str,
        ask: Callable[[HfApi], T],
        revision: str | None = None,
        *,
        retry: bool = True,
        after_failure: Callable[[], T | None] | None = None,
    ) -> T:
        """``ask`` with bounded retries. ``after_failure`` is asked before a retry whether the effect is there."""
        attempts = self._attempts if retry else 1
        for attempt in range(1, attempts + 1):
            try:
                return ask(self._api)
            except RegistryError:
                raise
            except Exception as error:
                trouble = translate(error, self.endpoint, repo, revision, self._token)
                wait = wait_before_retry(error, attempt)
                silent = "Timeout" in type(error).__name__ and attempt >= SILENT
                if wait is None or silent or attempt == attempts:
                    raise trouble from None
            self._sleep(wait)
            if after_failure is not None and (found := after_failure()) is not None:
                return found
        raise AssertionError("unreachable")

    def _fetch(self, commit: str, arrival: Arrival) -> None:
        try:
            fetch(lambda: self._api, commit, arrival, attempts=self._attempts, sleep=self._sleep)
        except RegistryError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and not from_network(error):
                raise  # the disk's, not the Hub's
            raise translate(error, self.endpoint, arrival.repo, commit, self._token) from None
