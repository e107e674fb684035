"""``w2w-reg generate``."""

from __future__ import annotations

from typing import Any

import click

from w2w_registry.records import counted

from . import options
from .frame import Frame, takes_frame
from .output import emit, progress, say, warn_all


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for the pictures.")
@click.option("--prompt", help="What to draw (default: 'photo of sks person').")
@options.seeds
@click.option("--negative", help="Negative prompt.")
@options.guidance
@options.steps
@options.edits(required=False)
@options.keep
@click.option("--from-timestep", type=click.IntRange(0, 1000), help="Apply the edit below this timestep only.")
@click.option(
    "--local",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Keep the unedited picture wherever the edit changes less than this share of its maximum; try 0.5.",
)
@click.option("--strengths", metavar="FROM:TO:N", help="Draw a strip over multiples of the edit, as in -1:2:7.")
@click.option("--coordinates", "from_coordinates", is_flag=True, help="Use the coordinates instead of the stored LoRA.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="Pictures generated at once.")
@options.purpose
@options.engine
@takes_frame
def generate(
    frame: Frame, name: str, seeds: str, edits: tuple[str, ...], keep: str, strengths: str | None, **given: Any
) -> None:
    """Generate pictures of an identity: a PNG per seed and a contact sheet in the --out folder.

    With --from-timestep, an edit keeps the picture's layout: 600 to 1000 changes shape, 300 to 600 detail. With
    --local, it keeps everything that the edit is not about, and takes twice as long.
    Each PNG records whom it shows, how it was made, and that a model made it.
    """
    from w2w_registry.services.synthesis import edit as edits_service
    from w2w_registry.services.synthesis import generate as service

    request = service.GenerateRequest(
        ref=name,
        seeds=service.parse_seeds(seeds),
        edit=edits_service.parse_amounts(",".join(edits)) if edits else {},
        keep=options.names(keep),
        strengths=service.parse_strengths(strengths) if strengths else (1.0,),
        **options.gathered(given),
    )
    with progress("drawing") as tick:
        value = service.generate(frame.registry(), request, tick)

    def human() -> None:
        warn_all(value["warnings"])
        say(f"{counted(len(value['files']), 'picture')} of {value['identity']} in {value['folder']}")
        say(f"contact sheet: {value['sheet']}")

    emit(frame, value, human)
