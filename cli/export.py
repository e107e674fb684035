"""``w2w-reg export``."""

from __future__ import annotations

from typing import Any

import click

from .make import _warn
from .output import Frame, emit, takes_frame


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.argument("out", type=click.Path())
@click.option(
    "--format",
    "fmt",
    default="peft",
    show_default=True,
    type=click.Choice(["peft", "diffusers", "kohya", "coordinates"]),
    help="What will load it.",
)
@click.option("--dtype", default="fp32", show_default=True, type=click.Choice(["fp32", "fp16", "bf16"]))
@click.option("--coordinates", "from_coordinates", is_flag=True, help="Write the point in the space, not the LoRA.")
@click.option("--purpose", metavar="WHAT", help="What for, as consent records name it.")
@takes_frame
def export(
    frame: Frame, name: str, out: str, fmt: Any, dtype: Any, from_coordinates: bool, purpose: str | None
) -> None:
    """Write an identity as a LoRA that PEFT, diffusers or kohya's tools load, or as its coordinates."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import export as service

    with open_registry(frame.settings()) as registry:
        value = service.export(
            registry, name, out, fmt=fmt, dtype=dtype, from_coordinates=from_coordinates, purpose=purpose
        )

    def human() -> None:
        _warn(value["warnings"])
        for path in value["files"]:
            click.echo(path)

    emit(frame, value, human)
