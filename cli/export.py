"""``w2w-reg export``."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, say, warn_all


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.argument("out", type=click.Path())
@click.option(
    "--format",
    "fmt",
    type=options.OneOf("w2w_registry.services.synthesis.export", "FORMATS"),
    metavar="FORMAT",
    help="Format to write: peft (the default), diffusers, kohya…, coordinates, or original (the default for an adapter "
    "in no weight space).",
)
@click.option(
    "--dtype",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="Precision of the numbers in the file.",
)
@click.option("--coordinates", "from_coordinates", is_flag=True, help="Use the coordinates instead of the stored LoRA.")
@options.purpose
@options.force
@takes_frame
def export(
    frame: Frame, name: str, out: str, fmt: Any, dtype: Any, from_coordinates: bool, purpose: str | None, force: bool
) -> None:
    """Write an identity as a LoRA that PEFT, diffusers or kohya's tools load, or as its coordinates."""
    from w2w_registry.services.synthesis import export as service

    value = service.export(
        frame.registry(),
        name,
        out,
        fmt=fmt,
        dtype=dtype,
        from_coordinates=from_coordinates,
        purpose=purpose,
        force=force,
    )

    def human() -> None:
        warn_all(value["warnings"])
        for path in value["files"]:
            say(path)

    emit(frame, value, human)
