"""Weight spaces in the artifact store: one safetensors file each, opened as memory maps."""

from __future__ import annotations

from w2w_registry.artifacts import ArtifactStore, temporary_folder
from w2w_registry.catalog.models import (
    Space,
)
from w2w_registry.catalog.resolve import space_for
from w2w_registry.commands import command
from w2w_registry.errors import BadFile, IntegrityError, UsageError
from w2w_registry.services.recording.space_files import read_space, write_space
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.metrics import (
    Metric,
    cosine,
)


def no_space(ref: str) -> UsageError:
    """What to say when a version that no weight space holds is asked for its place in one."""
    return UsageError(
        reason=f"{ref} is in no weight space",
        hint=f"it is kept as the file it came in; fit a space (`{command('space fit')}`) and add the file again to "
        f"place it, or compare what it draws (`{command('search', by='behaviour')}`)",
    )


def store_space(artifacts: ArtifactStore, space: WeightSpace) -> str:
    """Write ``space`` into the store; returns the artifact's digest. The same space gives the same artifact."""
    with temporary_folder(artifacts.scratch) as folder:
        file, _ = write_space(folder, space)
        return artifacts.put_file(file)


def load_space(artifacts: ArtifactStore, row: Space, *, verify: bool = False) -> WeightSpace:
    """The space of a catalog row. On a local store its arrays stay on disk until they are used.

    Args:
        verify: hold every array against the digest, which reads the whole file; else only the recorded digest is
            compared with the row's.

    Raises:
        NotFound: the artifact is gone. IntegrityError: the file is not what the row says.
    """
    try:
        with artifacts.local(row.artifact_digest) as path:
            kept = artifacts.path(row.artifact_digest) is not None  # a copy is gone when this ends
            space = read_space(path, mmap=kept, verify=verify)
    except BadFile as error:
        raise IntegrityError(
            what="space", name=row.ref, expected=row.digest, found=str(error.fields["reason"])
        ) from None
    if space.digest != row.digest:
        raise IntegrityError(what="space", name=row.ref, expected=row.digest, found=space.digest)
    return space


def open_space(registry: Registry, ref: str | None) -> tuple[Space, WeightSpace]:
    """The row and the arrays of a space."""
    with registry.catalog.read() as session:
        row = space_for(session, ref)
        return row, load_space(registry.artifacts, row)


def metric_of(space: Space) -> Metric:
    """The metric a space compares with; plain cosine when none was chosen."""
    return Metric.from_json(space.metric) if space.metric else cosine()
