"""One file of a Hub repo, streamed: resumed after a cut, never past its announced size, checked against its digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2w_registry.errors import RegistryError, UnsafeRepo, storing
from w2w_registry.hub.api import Digests, HubFile, Progress
from w2w_registry.hub.client_errors import from_network, wait_before_retry
from w2w_registry.hub.deadlines import ANNOUNCED
from w2w_registry.hub.safety import check_files, header_problem, shorten

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_CHUNK = 1 << 16
_HEAD = 16  # bytes that tell whether a safetensors file is one


class Arrival:
    """A file as it comes in: counted, looked at and digested chunk by chunk.

    Args:
        write: takes each chunk. restart: forgets all that was written, when the Hub starts anew instead of resuming.
    """

    def __init__(
        self, repo: str, file: HubFile, write: Callable[[bytes], object], restart: Callable[[], object]
    ) -> None:
        self.repo, self.file = repo, file
        self._write, self._restart = write, restart
        self._is_tensors = file.path.lower().endswith(".safetensors")
        self._begin()
        if self._is_tensors and (problem := header_problem(b"", file.size)):
            raise self.unsafe(problem)

    def _begin(self) -> None:
        self.got, self._head = 0, b""
        self._sha = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)

    def start_over(self) -> None:
        self._restart()
        self._begin()

    def take(self, chunk: bytes) -> None:
        """Raises UnsafeRepo when it is more than announced, or no tensors where tensors are promised."""
        self.got += len(chunk)
        if self.got > self.file.size:
            raise self.unsafe(f"more bytes than the {self.file.size} announced")
        if self._is_tensors and len(self._head) < _HEAD:
            self._head = (self._head + chunk)[:_HEAD]
            if problem := header_problem(self._head, self.file.size):
                raise self.unsafe(problem)
        self._write(chunk)
        self._sha.update(chunk)
        self._git.update(chunk)

    def finish(self) -> None:
        """Raises UnsafeRepo unless all of it came, and it is what the Hub lists."""
        if self.got < self.file.size:
            raise self.unsafe(f"{self.got} bytes came, {self.file.size} were announced")
        if not self.file.holds(Digests(self._sha.hexdigest(), self._git.hexdigest())):
            raise self.unsafe("its content does not have the digest the Hub lists")

    def unsafe(self, reason: str) -> UnsafeRepo:
        path = self.file.path
        return UnsafeRepo(repo=self.repo, path=path, reason=f"{shorten(path)}: {reason}", status=None)


class Downloads:
    """A hub that fetches file by file (``_fetch``): reading one, and downloading several."""

    def _fetch(self, commit: str, arrival: Arrival) -> None:
        raise NotImplementedError

    def read(self, repo_id: str, commit: str, file: HubFile) -> bytes:
        check_files(repo_id, [file])
        parts: list[bytes] = []
        self._fetch(commit, Arrival(repo_id, file, parts.append, parts.clear))
        return b"".join(parts)

    def download(
        self, repo_id: str, commit: str, files: Sequence[HubFile], folder: Path, progress: Progress | None = None
    ) -> None:
        download_files(repo_id, files, folder, progress, lambda arrival: self._fetch(commit, arrival))


def download_files(
    repo_id: str,
    files: Sequence[HubFile],
    folder: Path,
    progress: Progress | None,
    fetch_one: Callable[[Arrival], None],
) -> None:
    """Write ``files`` into ``folder``, each a fresh file and durable; ``fetch_one`` brings one to its arrival.

    Raises:
        UnsafeRepo: a file that may not be fetched, before any is. StorageError: it cannot be written.
    """
    check_files(repo_id, files)
    total, before = sum(f.size for f in files), 0
    for file in files:
        target = folder.joinpath(*file.path.split("/"))
        with storing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            # x: a fresh file, so that nothing already there (a link above all) is ever written through.
            with open(target, "xb") as stream:

                def write(chunk: bytes, stream: Any = stream, before: int = before) -> None:
                    stream.write(chunk)
                    if progress is not None:
                        progress(before + stream.tell(), total)

                def restart(stream: Any = stream) -> None:
                    stream.seek(0)
                    stream.truncate()

                fetch_one(Arrival(repo_id, file, write, restart))
                stream.flush()
                os.fsync(stream.fileno())
        before += file.size


def fetch(
    api: Callable[[], HfApi], commit: str, arrival: Arrival, *, attempts: int, sleep: Callable[[float], None]
) -> None:
    """Stream one file to its ``arrival``, with at most ``attempts`` failures between two pieces of progress.

    Raises:
        UnsafeRepo: it is not what was announced. OSError: writing failed. The library's own errors: the Hub failed.
    """
    failures = 0
    while True:
        before = arrival.got
        try:
            with _stream(api(), commit, arrival) as response:
                if arrival.got and response.status_code == 200:
                    arrival.start_over()
                    before = 0
                for chunk in response.iter_bytes(_CHUNK):
                    arrival.take(chunk)
            arrival.finish()
            return
        except RegistryError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and not from_network(error):
                raise
            failures = 1 if arrival.got > before else failures + 1
            wait = wait_before_retry(error, failures)
            if wait is None or failures >= attempts:
                raise
        sleep(wait)


def session() -> Any:
    """The library's HTTP client, which all its calls share."""
    from huggingface_hub import get_session

    return get_session()


@contextmanager
def _stream(api: HfApi, commit: str, arrival: Arrival) -> Iterator[Any]:
    """A GET of what has not come yet; errors are raised as the library's."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(arrival.repo, arrival.file.path, revision=commit, endpoint=api.endpoint)
    headers = build_hf_headers(token=api.token, library_name="w2w-registry")
    headers["Accept-Encoding"] = "identity"
    if arrival.got:
        headers["Range"] = f"bytes={arrival.got}-"
    announced = {ANNOUNCED: arrival.file.size}
    with session().stream("GET", url, headers=headers, extensions=announced) as response:
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        yield response
