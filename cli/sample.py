"""``w2w-reg sample``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from w2w_registry.records import counted

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say, table, warn_all


@click.command()
@click.option("-n", "--count", default=1, show_default=True, type=click.IntRange(1, 100_000), help="Number of samples.")
@options.space
@click.option("--name", "prefix", default="sample", show_default=True, help="Samples are called NAME-001, NAME-002…")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=options.Integer(0),
    help="Random seed; the same seed gives the same identities.",
)
@click.option(
    "--min-distance",
    default=0.0,
    show_default=True,
    type=float,
    help="Minimum distance (1 − score) from every identity.",
)
@click.option(
    "--distribution",
    default="unmixed",
    show_default=True,
    type=click.Choice(["unmixed", "full", "independent"]),
    help="independent: the paper's Gaussians; full: with covariance; unmixed: keeps binary attributes binary.",
)
@options.kind
@options.purpose
@click.option(
    "--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Draw each sample once, into one marked PNG."
)
@options.needing("sheet", options.steps, options.engine)
@options.force
@takes_frame
def sample(
    frame: Frame,
    count: int,
    space: str | None,
    prefix: str,
    seed: int,
    min_distance: float,
    distribution: Any,
    kind: str,
    purpose: str | None,
    sheet: Path | None,
    steps: int,
    force: bool,
    **drawing: Any,
) -> None:
    """Make new identities from the distribution of a space, and register them.

    `--sheet FILE` also draws each of them once, all with the same seed, with the base model that --pipeline names.
    """
    from w2w_registry.services.synthesis import edit as service
    from w2w_registry.services.synthesis import sample_sheet

    if sheet is not None:
        sample_sheet.check_sheet(frame.registry(), sheet, force=force)
    value = service.sample(
        frame.registry(),
        count,
        space=space,
        name=prefix,
        seed=seed,
        min_distance=min_distance,
        distribution=distribution,
        kind=kind,
        purpose=purpose,
    )

    drawn: Mapping[str, Any] = {}
    if sheet is not None and value.samples:
        engine = options.gathered({**drawing, "prompt": None})["engine"]
        with progress("drawing") as report:
            refs = [row.ref for row in value.samples]
            drawn = sample_sheet.write_sheet(
                frame.registry(), refs, sheet, steps=steps, purpose=purpose, engine=engine, force=force, progress=report
            )

    def human() -> None:
        warn_all(value.warnings)
        table(value.samples, ["ref", "nearest", "distance"], empty="none")
        if sheet is not None:
            say(f"wrote {sheet}")
        if value.refused:
            note(f"rejected for being nearer than {min_distance:g}: {counted(value.refused, 'sample')}")

    emit(frame, {**value, **drawn}, human)
