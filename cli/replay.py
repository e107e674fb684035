"""``w2w-reg replay``."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, pairs, progress, say, table


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--dry-run", is_flag=True, help="Print the plan; compute nothing.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=1e-4,
    show_default=True,
    help="Relative distance that counts as equal.",
)
@click.option(
    "--photos",
    multiple=True,
    metavar="PATH",
    type=click.Path(exists=True),
    help="Where to find the photos of a training or inversion: a file, or a folder (repeatable).",
)
@click.option("--mask", type=click.Path(exists=True, dir_okay=False), help="The mask of an inversion.")
@click.option("--pipeline", metavar="PATH|ID", help="The base model's folder or Hub id (default: as recorded).")
@click.option("--device", help="auto, cpu, cuda (default: as recorded).")
@click.option("--dtype", help="auto, float32, bfloat16, float16 (default: as recorded).")
@options.purpose
@takes_frame
def replay(frame: Frame, name: str, dry_run: bool, tolerance: float, **given: Any) -> int:
    """Recompute a version from its recorded inputs, and say whether it comes out identical, equal within tolerance or
    different, and why.

    Trainings and inversions run again. The registry knows their photos only by digest; --photos says where to find
    them. Consent must allow the use of these photos today, as it did then.

    Exit 6 if the result is different, 3 if an input is missing.
    """
    from w2w_registry.services.provenance import replay as service
    from w2w_registry.services.provenance.replay_training import Given

    registry = frame.registry()
    with progress("replaying") as tick:
        value = service.replay(registry, name, Given(**given), dry_run=dry_run, tolerance=tolerance, progress=tick)

    def human() -> None:
        pairs((("version", value.version), ("operation", value.operation), ("seed", value.seed)))
        rows = [{**step, "state": "" if step.missing is None else "missing"} for step in value.steps]
        table(rows, ["action", "of", "state"])
        for change in value.changed:
            note(f"changed since: {change}")
        if dry_run:
            say("nothing is missing" if value.possible else "not possible as things stand")
            for step in value.steps:
                if step.missing is not None:
                    say(f"  {step.missing}")
        else:
            distance = "" if value["distance"] is None else f" (distance {value['distance']:.2e})"
            say(f"{value['outcome']}{distance}")
            for reason in value["reasons"]:
                say(f"  {reason}")

    emit(frame, value, human)
    return {"different": 6, "impossible": 3}.get(value.get("outcome", ""), 0)
