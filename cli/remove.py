"""``w2w-reg remove``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, say


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--yes", is_flag=True, help="Remove; without it, only the plan is printed.")
@options.dry_run
@takes_frame
def remove(frame: Frame, name: str, yes: bool, dry_run: bool) -> int:
    """Remove an identity (or one version) from the registry: it is no longer found, listed or served.

    Its history stays in the audit log. To erase a person's data for good, see `consent withdraw --erase`.
    """
    from w2w_registry.services.identities import manage

    perform = yes and not dry_run
    registry = frame.registry()
    plan = manage.remove(registry, name, perform=perform)

    def human() -> None:
        verb = "removed" if perform else "would remove"
        for version in plan["versions"]:
            say(f"{verb}  {version}")
        if not perform and not dry_run:
            note("nothing was changed; add --yes to remove")

    emit(frame, plan, human)
    return 0 if perform or dry_run else 2
