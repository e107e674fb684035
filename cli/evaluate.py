"""``w2w-reg evaluate``."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, table


@click.command()
@click.argument("space", metavar="SPACE")
@click.option("--suite", required=True, type=click.Choice(["inversion", "edits", "sampling"]), help="What to measure.")
@click.option(
    "--scorer",
    required=True,
    metavar="PATH|ID|MODULE:FUNCTION",
    help="An image embedding (CLIP, DINOv2, …) by folder or Hub id, or your own IdentityScorer.",
)
@click.option("--photos", type=options.Folder(), help="Held-out photos, one folder per identity.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(2), help="Measure at most N identities.")
@options.seeds
@options.steps
@options.guidance
@options.prompt
@options.purpose
@options.engine
@takes_frame
def evaluate(frame: Frame, seeds: str, **given: Any) -> None:
    """Measure a space's inversions, edits or samples with an identity scorer; register nothing.

    Every figure comes with a 95% interval over identities.
    """
    from w2w_registry.services.synthesis import evaluate as service
    from w2w_registry.services.synthesis.generate import parse_seeds

    request = service.EvaluateRequest(seeds=parse_seeds(seeds), **options.gathered(given))
    with progress("measuring") as tick:
        value = service.evaluate(frame.registry(), request, tick)

    def human() -> None:
        table(value["rows"], ["what", "value", "low", "high", "n"], empty="nothing")
        note(f"space {value['space']}, scorer {value['scorer']}, seeds {value['seeds']}")

    emit(frame, value, human)
