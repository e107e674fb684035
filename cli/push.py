"""``w2w-reg push``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import progress
from .pushed import show_push


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.argument("repo_id", metavar="OWNER/REPO")
@options.access
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["peft", "diffusers", "kohya"]),
    help="Forms of the LoRA to publish (repeatable; default: peft and diffusers).",
)
@click.option("--coordinates-only", is_flag=True, help="Publish the point in the space, not the LoRA.")
@click.option("--license", "license_", metavar="ID", help="License in the card (default: other, bound to the consent).")
@click.option("--instance-prompt", metavar="TEXT", help="The prompt that calls the identity.")
@options.purpose
@options.dry_run
@takes_frame
def push(
    frame: Frame,
    name: str,
    repo_id: str,
    access: str | None,
    formats: tuple[str, ...],
    coordinates_only: bool,
    license_: str | None,
    instance_prompt: str | None,
    purpose: str | None,
    dry_run: bool,
) -> None:
    """Publish an identity as a Hub repo that diffusers and PEFT load, with its provenance and consent.

    A person's likeness needs consent for publication, and is private unless --gated is asked for. The
    same content again makes no commit; a changed one makes one commit and a tag.
    """
    from w2w_registry.services.hub import release

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
        report = release.push(registry, release.connect(registry), request, tick)
    show_push(frame, report.to_json(), dry_run)
