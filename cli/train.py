"""``w2w-reg train``."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, table, warn_all


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTOS…", type=click.Path(exists=True))
@click.option("--name", help="Identity name (one identity only; default: the folder's name).")
@options.prefix
@click.option("--out", type=click.Path(file_okay=False), help="Write the LoRAs here, a PEFT folder each.")
@click.option("--space", metavar="NAME[@V]", help="Weight space to register them in (default: the newest).")
@click.option("--no-register", is_flag=True, help="Only write the LoRAs, for `space fit`.")
@click.option("--prompt", help="Prompt that stands for the identity (default: 'photo of sks person').")
@click.option("--steps", default=400, show_default=True, type=click.IntRange(1), help="Optimiser steps.")
@click.option(
    "--samples", default=4, show_default=True, type=click.IntRange(1), help="Noised photos per step and identity."
)
@click.option("--lr", default=2e-3, show_default=True, type=float, help="Learning rate, falling to zero.")
@click.option("--rank", default=1, show_default=True, type=click.IntRange(1), help="LoRA rank, if no space sets it.")
@click.option("--alpha", default=27.0, show_default=True, type=float, help="LoRA alpha, if no space sets it.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="Identities trained at once.")
@click.option(
    "--prior", default=0, show_default=True, type=click.IntRange(0), help="Class pictures for prior preservation."
)
@click.option("--at-once", type=click.IntRange(1), help="Identities in the model at once (default: the batch).")
@click.option(
    "--checkpointing", is_flag=True, help="Checkpoint gradients: a third more time, a fraction of the memory."
)
@options.ray
@options.seed
@click.option(
    "--init-seed",
    type=options.Integer(0),
    help="Random seed of the shared initialisation (default: the space's mean, or 0).",
)
@options.described
@options.engine
@takes_frame
def train(frame: Frame, photos: tuple[str, ...], no_register: bool, labels: tuple[str, ...], **given: Any) -> None:
    """Train DreamBooth LoRAs from PHOTOS…: photos of one identity, a folder of them, or a folder with one folder
    per identity. All identities train together in one batch; an interrupted run resumes where it stopped.
    """
    from w2w_registry.services.recording.labels import parse_labels
    from w2w_registry.services.synthesis import train as service

    request = service.TrainRequest(
        photos=photos, register=not no_register, labels=parse_labels(labels), **options.gathered(given)
    )
    at: dict[str, float] = {}

    def said() -> str:
        return f"loss {at['loss']:.4f}" if "loss" in at else ""

    with progress("training", said) as tick:

        def step(done: int, total: int) -> None:
            if "done" not in at and done > 1 and request.ray is None:
                note(f"resumed at step {done - 1} of {total}")
            at.update(done=done, total=total)
            tick(done, total)

        try:
            value = service.train(frame.registry(), request, step, lambda loss: at.update(loss=loss))
        except (KeyboardInterrupt, SystemExit) as stop:
            if "done" not in at:
                raise
            told = (
                f"stopped at step {at['done']:.0f} of {at['total']:.0f}, {said()}; run the same command again to resume"
            )
            if isinstance(stop, KeyboardInterrupt):
                raise KeyboardInterrupt(told) from None
            note(told)
            raise

    def human() -> None:
        warn_all(value["warnings"])
        columns = ["identity", "version", "photos", "loss", "residual", "folder"]
        table([{c: row.get(c) for c in columns} for row in value["identities"]], columns, empty="nobody")

    emit(frame, value, human)
