"""``w2w-reg sync``."""

from __future__ import annotations

import click

from w2w_registry.records import counted

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say, warn


@click.command()
@click.option("--owner", metavar="O", help="Whose repos to look through (default: yours and your organisations').")
@click.option("--push", is_flag=True, help="Where content differs, make the Hub match the catalog.")
@click.option("--pull", is_flag=True, help="Where content differs, make the catalog match the Hub.")
@options.dry_run
@takes_frame
def sync(frame: Frame, owner: str | None, push: bool, pull: bool, dry_run: bool) -> int:
    """Reconcile the catalog with the Hub. Exit code 1 means that they differ, or still differ.

    Unfinished pushes and takedowns are completed, access to repos that are too open is restricted, releases without
    consent are taken down, and repos deleted or renamed on the Hub are recorded. Content is transferred only with
    --push or --pull. OCI registries that hold releases of yours are checked as well.
    """
    from w2w_registry.messages import message
    from w2w_registry.services.hub import sync as service
    from w2w_registry.services.hub.connecting import connect

    if push and pull:
        raise click.UsageError("--push and --pull cannot be combined")
    registry = frame.registry()
    with progress("settling") as tick:
        report = service.sync(
            registry, connect(registry), owner=owner, push=push, pull=pull, dry_run=dry_run, progress=tick
        )
    rows = [
        {
            "difference": str(s.item.difference),
            "action": str(s.item.action),
            "repo": s.item.repo_id,
            "version": s.item.ref,
            "detail": s.item.detail,
            "done": s.done,
            "error": None if s.error is None else message(s.error),
        }
        for s in report.entries
    ]

    unasked = [{"endpoint": endpoint, "error": message(error)} for endpoint, error in report.unasked]

    def human() -> None:
        for row, entry in zip(rows, report.entries, strict=True):
            mark = "" if dry_run else "  done" if row["done"] else "  left"
            say(f"{entry.item.line}{mark}")
            if row["error"]:
                warn(str(row["error"]))
        for endpoint, error in report.unasked:
            why = message(error).removeprefix(f"{endpoint}: ")
            warn(f"{endpoint} could not be asked: {why}")
        note("catalog and Hub agree" if not report.differs else f"{counted(report.left, 'difference')} left")

    emit(frame, {"differs": report.differs, "dry_run": dry_run, "items": rows, "unasked": unasked}, human)
    return 1 if report.differs else 0
