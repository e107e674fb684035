"""``w2w-reg space``: weight spaces."""

from __future__ import annotations

import click

from .output import Frame, emit, note, pairs, progress, table, takes_frame, warn


@click.group()
def space() -> None:
    """Fit, import, list, show and export weight spaces."""


@space.command()
@click.argument("name")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--base-model", required=True, metavar="ID", help="The base model all these LoRAs were trained on.")
@click.option("--revision", metavar="R", help="Revision of the base model.")
@click.option("--components", type=click.IntRange(1), metavar="K", help="Components to keep (default: chosen).")
@click.option("--repeats", type=click.Path(), metavar="PATH", help="Second LoRAs of the same identities, same names.")
@takes_frame
def fit(
    frame: Frame,
    name: str,
    paths: tuple[str, ...],
    base_model: str,
    revision: str | None,
    components: int | None,
    repeats: str | None,
) -> None:
    """Fit a weight space NAME to the LoRAs at PATH…: standardise, PCA, calibrate "same identity".

    Fitting a NAME that exists makes its next version. With --repeats the metric also learns which
    components are reliable across trainings.
    """
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.spaces import manage

    with open_registry(frame.settings()) as registry, progress("reading") as tick:
        value = manage.fit_space(
            registry,
            name,
            paths,
            base_model=base_model,
            revision=revision,
            components=components,
            repeats=repeats,
            progress=tick,
        )
    for text in value.pop("warnings"):
        warn(text)
    emit(frame, value, lambda: pairs(value.items()))


@space.command(name="import")
@click.argument("name")
@click.argument("path")
@click.option("--components", type=click.IntRange(1), metavar="K", help="Keep only the first K components.")
@click.option("--base-model", metavar="ID", help="Base model, when the files do not name it.")
@click.option("--identities/--no-identities", default=False, help="Also add the release's own points as identities.")
@takes_frame
def import_(
    frame: Frame, name: str, path: str, components: int | None, base_model: str | None, identities: bool
) -> None:
    """Import a weight space from PATH: a folder of `space export`, the public weights2weights release
    (mean.pt, std.pt, V.pt, weight_dimensions.pt), or a Hub repo (hf://owner/repo[@rev])."""
    from w2w_registry.services.hub.resolving import space_folder
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.spaces import manage

    with (
        open_registry(frame.settings()) as registry,
        progress("importing") as tick,
        space_folder(registry, path, tick) as (folder, origin),
    ):
        value = manage.import_space(
            registry,
            name,
            folder,
            components=components,
            base_model=base_model,
            with_identities=identities,
            progress=tick,
            origin=origin,
        )
    for text in value.pop("notes"):
        note(text)
    emit(frame, value, lambda: pairs(value.items()))


@space.command(name="list")
@takes_frame
def list_(frame: Frame) -> None:
    """List weight spaces."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.spaces import manage

    with open_registry(frame.settings()) as registry:
        rows = manage.list_spaces(registry)
    columns = ["space", "base_model", "dim", "components", "fit_size", "identities", "digest", "created"]
    shown = [{**row, "digest": row["digest"][:12]} for row in rows]
    emit(frame, rows, lambda: table(shown, columns, empty="no spaces yet; `w2w-reg space fit NAME PATH…`"))


@space.command()
@click.argument("name", metavar="NAME[@V]")
@takes_frame
def show(frame: Frame, name: str) -> None:
    """Show a weight space: base model, layout, explained variance, metric, calibration, versions of software."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.spaces import manage

    with open_registry(frame.settings()) as registry:
        value = manage.show_space(registry, name)
    emit(frame, value, lambda: pairs((k.replace("_", " "), v) for k, v in value.items()))


@space.command()
@click.argument("name", metavar="NAME[@V]")
@click.argument("out", type=click.Path(file_okay=False))
@takes_frame
def export(frame: Frame, name: str, out: str) -> None:
    """Write a weight space to folder OUT (safetensors + json), which `space import` reads back bit for bit."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.spaces import manage

    with open_registry(frame.settings()) as registry:
        value = manage.export_space(registry, name, out)
    emit(frame, value, lambda: pairs(value.items()))


@space.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--without", "without", multiple=True, required=True, metavar="SUBJECT", help="Leave this subject out.")
@takes_frame
def refit(frame: Frame, name: str, without: tuple[str, ...]) -> None:
    """Fit the next version of a space again from the catalog's files, without some subjects, and place every
    remaining identity in it."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.spaces.refit import refit_space

    with open_registry(frame.settings()) as registry, progress("fitting") as tick:
        value = refit_space(registry, name, without=without, progress=tick)
    for text in value.pop("warnings"):
        warn(text)
    emit(frame, value, lambda: pairs(value.items()))
