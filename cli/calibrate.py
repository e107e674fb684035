"""``w2w-reg calibrate``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say


@click.command()
@click.option(
    "--repeats",
    multiple=True,
    required=True,
    type=options.Folder(),
    help="A folder of repeat trainings, named like the identities (repeatable: one folder per way of training).",
)
@options.pipeline
@options.prompt
@options.device
@takes_frame
def calibrate(frame: Frame, repeats: tuple[str, ...], pipeline: str | None, prompt: str | None, device: str) -> None:
    """Learn from repeat trainings which fingerprints belong to the same person, and how often a stranger comes as near.

    The first folder holds LoRAs trained like the registered ones, from other photos; each further folder holds LoRAs
    trained another way (rank, initialisation, modules, tool). At least sixteen of each are needed. Fewer than
    a hundred of the first kind alone are worse than none for LoRAs trained another way (docs/metric.md).
    """
    from w2w_registry.services.recording import fingerprints
    from w2w_registry.services.search import behaviour as service

    registry = frame.registry()
    prober = fingerprints.opener(registry, pipeline, device, prompt=prompt or fingerprints.PROMPT)()
    with progress("repeats") as tick:
        value = service.calibrate(registry, prober, repeats, progress=tick)

    def human() -> None:
        learned = ", ".join(f"{count} {name}" for name, count in value["repeats"].items())
        say(f"learned from {learned}, among {value['people']} people")
        if value["unknown"]:
            note(f"{len(value['unknown'])} adapters match no registered identity by name, and were left out")

    emit(frame, value, human)
