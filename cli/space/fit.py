"""``w2w-reg space fit``."""

from __future__ import annotations

from dataclasses import replace

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, facts, progress, warn


@click.command()
@click.argument("name")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--base-model", required=True, metavar="ID", help="The base model all these LoRAs were trained on.")
@click.option("--revision", metavar="R", help="Revision of the base model.")
@click.option(
    "--components", type=click.IntRange(1), metavar="K", help="Components to keep (default: chosen automatically)."
)
@click.option(
    "--repeats",
    type=click.Path(),
    metavar="PATH",
    help="A second, independent LoRA of each identity, with the same names.",
)
@click.option("--force", is_flag=True, help="Fit even if the LoRAs were trained from different initialisations.")
@click.option("--device", default="cpu", show_default=True, metavar="D", help="Device to compute on: cpu or cuda.")
@options.ray
@takes_frame
def fit(
    frame: Frame,
    name: str,
    paths: tuple[str, ...],
    base_model: str,
    revision: str | None,
    components: int | None,
    repeats: str | None,
    force: bool,
    device: str,
    ray: str | None,
) -> None:
    """Fit a weight space NAME to the LoRAs at PATH…: standardise, PCA, calibrate "same identity".

    Fitting an existing NAME creates its next version. With --repeats, the metric also learns which components are
    reliable across trainings and, where identities of these names are registered and the base model is on this
    machine, what trainings of the same person draw (as `calibrate` does). With --ray, the machines of that cluster
    read and check the files; everything else is computed here.
    """
    from w2w_registry.services.search.behaviour import calibrate_at_hand
    from w2w_registry.services.spaces import manage

    registry = frame.registry()
    with progress("reading") as tick:
        value = manage.fit_space(
            registry,
            name,
            paths,
            base_model=base_model,
            revision=revision,
            components=components,
            repeats=repeats,
            force=force,
            device=device,
            progress=tick,
            ray=ray,
        )
    for text in value.warnings:
        warn(text)
    if repeats:
        with progress("repeats") as tick:
            learned = calibrate_at_hand(registry, base_model, repeats, progress=tick)
        if isinstance(learned, str):
            warn(learned)
        else:
            value = replace(value, behaviour=learned.repeats)
    emit(frame, value, lambda: facts(value))
