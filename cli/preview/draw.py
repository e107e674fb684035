"""``w2w-reg preview draw``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, progress, say, warn_all


@click.command()
@click.argument("names", metavar="NAME[@V]...", nargs=-1, required=True)
@click.option("--prompt", default="photo of sks person", show_default=True, help="What to draw.")
@click.option("--seed", default=1, show_default=True, type=options.Integer(0), help="Random seed.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1, 1000), help="Denoising steps.")
@click.option("--replace", is_flag=True, help="Also draw for versions that have a preview.")
@options.purpose
@options.pipeline
@options.device
@takes_frame
def draw(
    frame: Frame,
    names: tuple[str, ...],
    prompt: str,
    seed: int,
    steps: int,
    replace: bool,
    purpose: str | None,
    pipeline: str | None,
    device: str,
) -> None:
    """Draw previews for versions that have none, such as edits, mixes and samples.

    This needs the same consent as `generate`; the picture is marked whenever it leaves the registry.
    """
    from w2w_registry.services.synthesis import previewing as service
    from w2w_registry.services.synthesis.engine import WarmEngine

    engine, registry, made = WarmEngine(pipeline, device), frame.registry(), []  # type: ignore[arg-type]
    with progress("drawing") as tick:
        for done, name in enumerate(names, start=1):
            request = service.PreviewRequest(name, prompt, seed, steps, replace, purpose, engine)
            made.append(service.draw_preview(registry, request))
            tick(done, len(names))

    def human() -> None:
        for one in made:
            warn_all(one["warnings"])
            say(f"{one['version']} has a picture")

    emit(frame, made, human)
