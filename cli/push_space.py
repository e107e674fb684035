"""``w2w-reg push-space``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import progress
from .pushed import show_push


@click.command(name="push-space")
@click.argument("name", metavar="NAME[@V]")
@click.argument("repo_id", metavar="OWNER/REPO")
@options.access
@click.option("--license", "license_", metavar="ID", default="other", show_default=True, help="License in the card.")
@options.dry_run
@takes_frame
def push_space(frame: Frame, name: str, repo_id: str, access: str | None, license_: str, dry_run: bool) -> None:
    """Publish a weight space as a Hub repo, private by default; `space import NAME hf://OWNER/REPO` reads it.

    oci://HOST/NAME publishes it in an OCI registry.
    """
    from w2w_registry.services.hub import release, spaces
    from w2w_registry.services.hub.connecting import connect

    registry = frame.registry()
    with progress("uploading") as tick:
        report = spaces.push_space(
            registry,
            connect(registry, repo_id),
            name,
            repo_id,
            access=release.parse_access(access or "private"),
            license=license_,
            dry_run=dry_run,
            progress=tick,
        )
    show_push(frame, report.to_json(), dry_run)
