"""``w2w-reg push``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, progress, say
from .pushed import show_push


@click.command()
@click.argument("name", metavar="NAME[@V]", required=False)
@click.argument("repo_id", metavar="OWNER/REPO", required=False)
@click.option("--to", metavar="ADDRESS", help="Destination instead of OWNER/REPO: oci://HOST/NAME for an OCI registry.")
@options.access
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=options.OneOf("w2w_registry.services.hub.release_files", "FORMATS"),
    metavar="FORMAT",
    help="LoRA formats to publish: peft, diffusers, kohya… (repeatable; default: peft and diffusers).",
)
@click.option("--coordinates-only", is_flag=True, help="Publish the coordinates, not the LoRA.")
@click.option("--license", "license_", metavar="ID", help="License in the card (default: other, bound to the consent).")
@click.option("--instance-prompt", metavar="TEXT", help="The prompt that triggers the identity.")
@click.option("--cancel", metavar="OWNER/REPO", help="Cancel an unfinished push to this repo, and push nothing.")
@options.purpose
@options.dry_run
@takes_frame
def push(
    frame: Frame,
    name: str | None,
    repo_id: str | None,
    to: str | None,
    access: str | None,
    formats: tuple[str, ...],
    coordinates_only: bool,
    license_: str | None,
    instance_prompt: str | None,
    cancel: str | None,
    purpose: str | None,
    dry_run: bool,
) -> None:
    """Publish an identity as a Hub repo that diffusers and PEFT load, with its provenance and consent.

    A person's likeness needs consent to publication, and is private unless you give --gated. Unchanged content makes
    no commit; changed content makes one commit and a tag. In an OCI registry the release is a ModelPack artifact,
    private unless you give --public.
    """
    from w2w_registry.services.hub import release
    from w2w_registry.services.hub.connecting import connect

    if to is not None:
        if repo_id is not None:
            raise click.UsageError("OWNER/REPO and --to cannot be combined: name one destination")
        repo_id = to
    if cancel is not None:
        if any((name, to, access, formats, coordinates_only, license_, instance_prompt, purpose, dry_run)):
            raise click.UsageError("--cancel takes only the repo: it pushes nothing")
        registry = frame.registry()
        done = release.cancel(registry, connect(registry, cancel), cancel)
        said = "what had been uploaded was removed" if done == "undone" else "nothing had been uploaded"
        emit(frame, {"repo": cancel, "cancelled": done}, lambda: say(f"{cancel}: cancelled; {said}"))
        return
    if name is None or repo_id is None:
        raise click.UsageError("say what to push and where: w2w-reg push NAME OWNER/REPO, or --to oci://HOST/NAME")
    request = release.push_request(
        name,
        repo_id,
        access=access,
        formats=formats,
        coordinates_only=coordinates_only,
        license=license_,
        instance_prompt=instance_prompt,
        purpose=purpose,
        dry_run=dry_run,
    )
    registry = frame.registry()
    with progress("uploading") as tick:
        report = release.push(registry, connect(registry, repo_id), request, tick)
    show_push(frame, report.to_json(), dry_run)
