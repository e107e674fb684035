"""``w2w-reg evaluate``."""

from __future__ import annotations

from typing import Any

import click

from .make import _engine, engine_options
from .output import Frame, emit, note, progress, table, takes_frame


@click.command()
@click.argument("space", metavar="SPACE")
@click.option("--suite", required=True, type=click.Choice(["inversion", "edits", "sampling"]), help="What to measure.")
@click.option(
    "--scorer",
    required=True,
    metavar="PATH|ID|MODULE:FUNCTION",
    help="An image embedding (CLIP, DINOv2, …) by folder or Hub id, or your own IdentityScorer.",
)
@click.option("--photos", type=click.Path(exists=True, file_okay=False), help="Held-out photos, a folder each.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(2), help="At most so many identities.")
@click.option("--seeds", default="1-4", show_default=True, help="As in 1-8 or 3,7.")
@click.option("--steps", default=30, show_default=True, type=click.IntRange(1, 1000), help="Denoising steps.")
@click.option("--guidance", type=float, help="Guidance scale (default: the pipeline's own).")
@click.option("--prompt", help="The prompt the space's LoRAs were trained with (default: 'photo of sks person').")
@click.option("--purpose", metavar="WHAT", help="What for, as consent records name it.")
@engine_options
@takes_frame
def evaluate(frame: Frame, seeds: str, **options: Any) -> None:
    """Measure a space's inversions, edits or samples with an identity scorer; registers nothing.

    Every figure has a 95% interval over identities.
    """
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import evaluate as service
    from w2w_registry.services.synthesis.generate import parse_seeds

    request = service.EvaluateRequest(seeds=parse_seeds(seeds), **_engine(options))
    with open_registry(frame.settings()) as registry, progress("measuring") as tick:
        value = service.evaluate(registry, request, tick)

    def human() -> None:
        table(value["rows"], ["what", "value", "low", "high", "n"], empty="nothing")
        note(f"space {value['space']}, scorer {value['scorer']}, seeds {value['seeds']}")

    emit(frame, value, human)
