"""``hf://`` and ``oci://`` addresses resolved to local files, before a service that knows no Hub is called.

What talks to a Hub is imported where an address is one: most searches name somebody registered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from w2w_registry.artifacts import folder_until_exit
from w2w_registry.hub.addresses import is_remote
from w2w_registry.lora import find_loras
from w2w_registry.services.recording.versions import Input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.search.found import Query


def as_query(registry: Registry, text: str) -> Query:
    """What a search is asked with: ``hf://owner/repo[@rev]`` is fetched first, everything else is taken as it is.

    Raises:
        As :func:`w2w_registry.services.hub.pull.pull`.
    """
    return Query(text, look_up(registry, text)) if is_remote(text) else Query(text)


def as_queries(registry: Registry, texts: Sequence[str]) -> list[Query]:
    """As :func:`as_query`, for many; a folder of adapters is a query each."""
    found: list[Query] = []
    for text in texts:
        inside = [] if is_remote(text) or not Path(text).expanduser().is_dir() else find_loras([text])
        if len(inside) > 1:
            found += [Query(str(one.path), one.path) for one in inside]
        else:
            found.append(as_query(registry, text))
    return found


def look_up(registry: Registry, uri: str) -> Path:
    """A LoRA on disk with what ``hf://owner/repo[@rev]`` holds, for a search that adds nothing; it is gone at exit.

    Raises:
        As :func:`w2w_registry.services.hub.pull.pull`.
    """
    from w2w_registry.catalog.vectors import unpack
    from w2w_registry.lora import write_lora
    from w2w_registry.services.hub.connecting import connect
    from w2w_registry.services.hub.pull import fetch, space_of
    from w2w_registry.services.recording.spaces import load_space

    folder = folder_until_exit(registry.settings.temporary_dir)
    fetched = fetch(connect(registry, uri), uri, folder)
    if fetched.lora is not None:
        return fetched.lora
    assert fetched.document is not None
    with registry.catalog.read() as session:
        space = load_space(registry.artifacts, space_of(session, fetched.document))
    out = folder / "from-coordinates"
    theta = space.reconstruct(unpack(fetched.document.coordinates))
    write_lora(out, space.layout.unflatten(theta), space.layout.alpha, base_model=fetched.document.base_model)
    return out


@contextmanager
def space_folder(registry: Registry, text: str, progress: Progress = no_progress) -> Iterator[tuple[str, Input | None]]:
    """A folder or file that holds a space, and where it comes from when it was fetched; a fetched one is gone after.

    Raises:
        NotFound: no such repo, or no space in it. UnsafeRepo, BadFile: what is there is refused.
    """
    if not is_remote(text):
        yield text, None
        return
    from w2w_registry.services.hub.connecting import connect
    from w2w_registry.services.hub.spaces import fetched_space

    with fetched_space(connect(registry, text), text, progress, scratch=registry.settings.temporary_dir) as (
        folder,
        repo,
    ):
        yield str(folder), repo
