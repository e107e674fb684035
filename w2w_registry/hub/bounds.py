"""What an answer of the Hub may cost: so many bytes, so many seconds, and the shape it is promised in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from w2w_registry.errors import HubError
from w2w_registry.hub import deadlines
from w2w_registry.hub.api import HubFile
from w2w_registry.hub.deadlines import ANNOUNCED, Deadline
from w2w_registry.hub.safety import shorten

MOST_JSON = 64 << 20
"""Bytes of one answer of the API; the largest honest ones list a few hundred thousand files."""
_REPO_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAG = re.compile(r"[^\x00-\x20\x7f]{1,255}")


def bound(response: Any) -> None:
    """A response hook of the library's HTTP client: answers of the API, and files fetched here, end in time.

    Other traffic in the process (a pipeline that fetches its weights) is left alone.
    """
    announced = response.request.extensions.get(ANNOUNCED)
    if announced is None and not response.request.url.path.startswith("/api/"):
        return
    most = MOST_JSON if announced is None else int(announced)
    deadline = deadlines.of(response.request) or Deadline(deadlines.DEADLINE, response.request.url.host)
    base = next(kind for kind in type(response.stream).__mro__ if kind.__name__ == "SyncByteStream")
    # the client asks for an instance of its own class, whichever version of it the library brings
    kept = type("Bounded", (_Bounded, base), {})
    response.stream = kept(response.stream, deadline, None if announced is not None else most)


class _Bounded:
    """A byte stream that stops with a HubError after too many bytes or too long."""

    def __init__(self, stream: Any, deadline: Deadline, most: int | None) -> None:
        self._stream, self._deadline, self._most = stream, deadline, most

    def __iter__(self) -> Iterator[bytes]:
        got = 0
        for chunk in self._stream:
            got += len(chunk)
            if self._most is not None and got > self._most:
                reason = f"the answer is longer than {self._most >> 20} MB"
                raise HubError(repo=self._deadline.where, reason=reason, status=None)
            self._deadline.check()
            yield chunk

    def close(self) -> None:
        self._stream.close()


# -- shapes: each returns the value, or raises ValueError naming what came instead --------------------------------
def repo_id_of(value: object) -> str:
    if isinstance(value, str) and _REPO_ID.fullmatch(value) and ".." not in value:
        return value
    raise ValueError(f"the Hub answered with a repo id that is none: {_shown(value)}")


def commit_of(value: object) -> str:
    if isinstance(value, str) and _COMMIT.fullmatch(value):
        return value
    raise ValueError(f"the Hub answered with a commit that is none: {_shown(value)}")


def tag_of(value: object) -> str:
    if isinstance(value, str) and _TAG.fullmatch(value):
        return value
    raise ValueError(f"the Hub answered with a tag that is none: {_shown(value)}")


def hub_file(sibling: Any) -> HubFile:
    """One file of a repo as the library describes it; an absent size is 0."""
    size = 0 if sibling.size is None else sibling.size
    if not isinstance(sibling.rfilename, str):
        raise ValueError(f"the Hub answered with a file name that is none: {_shown(sibling.rfilename)}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 53:
        raise ValueError(f"the Hub answered with a size that is none: {_shown(size)}")
    return HubFile(sibling.rfilename, size, str(sibling.blob_id or ""), sibling.lfs.sha256 if sibling.lfs else None)


def _shown(value: object) -> str:
    return shorten(repr(value), 60)
