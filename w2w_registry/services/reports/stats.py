"""``stats``: what there is, and what room it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from w2w_registry.catalog.usage import counts
from w2w_registry.records import Result
from w2w_registry.services.registry import Registry


@dataclass(frozen=True, eq=False)
class Stats(Result):
    """Counts of everything; ``by`` as ``catalog.usage.counts`` has it; ``bytes`` of what lies in the home folder:
    ``catalog`` (a SQLite file), ``artifacts``, ``index``, None for what lies elsewhere."""

    identities: int
    versions: int
    removed: int
    spaces: int
    subjects: int
    releases: int
    events: int
    labels: int
    tags: int
    by: dict[str, dict[str, int]]
    bytes: dict[str, int | None]


def stats(registry: Registry) -> Stats:
    """What there is now."""
    home = registry.settings.home
    with registry.catalog.read() as session:
        found = counts(session)
    url, artifacts = registry.settings.database_url, registry.settings.artifacts_url
    sqlite = url.startswith("sqlite:///")
    return Stats(
        **found,
        bytes={
            "catalog": _size(Path(url.removeprefix("sqlite:///"))) if sqlite else None,
            "artifacts": None if "://" in artifacts else _size(Path(artifacts)),
            "index": _size(home / "index"),
        },
    )


def _size(path: Path) -> int:
    """Bytes of a file, or of everything in a folder; what cannot be read counts nothing."""
    try:
        if path.is_file():
            return sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    except OSError:
        return 0
