"""``w2w-reg pull``."""

from __future__ import annotations

import click

from w2w_registry.records import Kind

from . import options
from .frame import Frame, takes_frame
from .output import emit, progress, say, warn


@click.command()
@click.argument("repo", metavar="OWNER/REPO[@REV]")
@click.option("--name", help="Identity name (default: as published, or the repo's name).")
@click.option(
    "--space", metavar="NAME[@V]", help="Weight space for a LoRA that is not a release (default: the newest)."
)
@click.option(
    "--kind", type=click.Choice([*map(str, Kind)]), help="What it depicts (default: as published, or person)."
)
@options.subjects
@click.option("--base-model", metavar="ID", help="Base model, when the card does not name it.")
@click.option("--file", metavar="PATH", help="LoRA to pull from a repo that holds several.")
@options.seen_with
@click.option("--dry-run", is_flag=True, help="Download and check; register nothing.")
@takes_frame
def pull(
    frame: Frame,
    repo: str,
    name: str | None,
    space: str | None,
    kind: str | None,
    subjects: tuple[str, ...],
    base_model: str | None,
    file: str | None,
    pipeline: str | None,
    dry_run: bool,
) -> None:
    """Register the identity that a Hub repo publishes: a release of a registry like this one, or anyone's LoRA.

    A release is registered bit for bit once its digests, weights and coordinates have been checked against one
    another. Any other LoRA is placed like an added file. Pickles are never fetched. oci://HOST/NAME[@TAG] names a
    repository in an OCI registry.
    """
    from w2w_registry.services.hub import pull as service
    from w2w_registry.services.hub.connecting import connect

    request = service.PullRequest(repo, name, space, kind, subjects, base_model, file, dry_run, pipeline)
    registry = frame.registry()
    with progress("downloading") as tick:
        value = service.pull(registry, connect(registry, repo), request, tick).to_json()

    def human() -> None:
        for text in value["warnings"]:
            warn(text)
        where = value["version"] or "nothing registered (dry run)"
        residual = "" if value["residual"] is None else f"  residual {value['residual']:.3f}"
        place = f"in {value['space']}" if value["space"] else "in no weight space"
        say(f"{value['status']}  {where}  {place}{residual}  consent {value['consent']}")

    emit(frame, value, human)
