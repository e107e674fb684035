"""``train``, ``invert``, ``edit``, ``mix``, ``sample``, ``guess``: making identities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from .output import Frame, emit, note, progress, table, takes_frame, warn

F = TypeVar("F", bound=Callable[..., Any])


def engine_options(function: F) -> F:
    """Options of every command that runs the base model."""
    for option in (
        click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda."),
        click.option(
            "--pipeline", metavar="PATH|ID", help="The base model's folder or Hub id (default: the space's own id)."
        ),
    ):
        function = option(function)
    return function


def subject_options(function: F) -> F:
    """Options of every command that makes something new of somebody."""
    for option in (
        click.option("--purpose", metavar="WHAT", help="What for, as consent records name it."),
        click.option("--label", "labels", multiple=True, metavar="K=V", help="A label, number or text (repeatable)."),
        click.option("--subject", "subjects", multiple=True, metavar="ID", help="Whom it depicts (repeatable)."),
        click.option("--kind", default="person", show_default=True, help="person, product, style, animal…"),
    ):
        function = option(function)
    return function


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTOS…", type=click.Path(exists=True))
@click.option("--name", help="Identity name (one identity only; default: the folder's name).")
@click.option("--prefix", default="", help="Put before every name taken from a folder, as in 'acme/'.")
@click.option("--out", type=click.Path(file_okay=False), help="Write the LoRAs here, a PEFT folder each.")
@click.option("--space", metavar="NAME[@V]", help="Weight space to register them in (default: the newest).")
@click.option("--no-register", is_flag=True, help="Only write the LoRAs: what `space fit` is then run on.")
@click.option("--prompt", help="The prompt that means the identity (default: 'photo of sks person').")
@click.option("--steps", default=400, show_default=True, type=click.IntRange(1), help="Optimiser steps.")
@click.option("--samples", default=4, show_default=True, type=click.IntRange(1), help="Noisy photos a step, each.")
@click.option("--lr", default=2e-3, show_default=True, type=float, help="Learning rate, falling to zero.")
@click.option("--rank", default=1, show_default=True, type=click.IntRange(1), help="Without a space: rank.")
@click.option("--alpha", default=27.0, show_default=True, type=float, help="Without a space: alpha.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="Identities side by side.")
@click.option(
    "--prior", default=0, show_default=True, type=click.IntRange(0), help="Pictures of the class to preserve."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of noise and timesteps.")
@click.option("--init-seed", type=click.IntRange(0), help="Of a shared start (default: the space's mean, or 0).")
@subject_options
@engine_options
@takes_frame
def train(frame: Frame, photos: tuple[str, ...], no_register: bool, labels: tuple[str, ...], **options: Any) -> None:
    """Train DreamBooth LoRAs from PHOTOS…: photos of one identity, a folder of them, or a folder with a folder
    for each identity. All identities train side by side in one batch; a killed run goes on where it was.
    """
    from w2w_registry.services.recording.labels import parse_labels
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import train as service

    request = service.TrainRequest(
        photos=photos, register=not no_register, labels=parse_labels(labels), **_engine(options)
    )
    with open_registry(frame.settings()) as registry, progress("training") as tick:
        value = service.train(registry, request, tick)

    def human() -> None:
        _warn(value["warnings"])
        columns = ["identity", "version", "photos", "loss", "residual", "folder"]
        table([{c: row.get(c) for c in columns} for row in value["identities"]], columns, empty="nobody")

    emit(frame, value, human)


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO…", type=click.Path(exists=True, dir_okay=False))
@click.option("--name", help="Identity name (one PHOTO only; default: the file's name).")
@click.option("--prefix", default="", help="Put before every name taken from a file, as in 'acme/'.")
@click.option("--mask", type=click.Path(exists=True, dir_okay=False), help="White where the identity is.")
@click.option("--space", metavar="NAME[@V]", help="Weight space (default: the newest).")
@click.option("--components", type=click.IntRange(1), metavar="K", help="Use the space's first K components only.")
@click.option("--prompt", help="The prompt the space's LoRAs were trained with (default: 'photo of sks person').")
@click.option("--steps", type=click.IntRange(0), help="At most so many optimiser steps.")
@click.option("--samples", type=click.IntRange(1), help="Noisy copies a step; fewer need less memory.")
@click.option("--lr", "rate", type=float, help="Length of a step; a longer one fits the photo more closely.")
@click.option("--prior", type=float, help="How strongly to stay near the guess.")
@click.option("--emphasis", type=float, help="Factor of the answer's distance from the average identity.")
@click.option("--no-guess", "use_guess", is_flag=True, flag_value=False, default=True, help="Start at the average.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of all noise.")
@subject_options
@engine_options
@takes_frame
def invert(frame: Frame, photos: tuple[str, ...], labels: tuple[str, ...], **options: Any) -> None:
    """Find the coordinates of the identity in a single PHOTO, and register it.

    Fastest and best after `guess fit`, which learns where to start.
    """
    from w2w_registry.services.recording.labels import parse_labels
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import invert as service

    request = service.InvertRequest(photos=photos, labels=parse_labels(labels), **_engine(options))
    with open_registry(frame.settings()) as registry, progress("inverting") as tick:
        rows = service.invert(registry, request, tick)

    def human() -> None:
        for row in rows:
            _warn(row["warnings"])
        columns = ["ref", "loss", "explained", "typicality", "converged", "steps", "seconds", "nearest"]
        shown = [{**row, "nearest": _near(row["nearest"])} for row in rows]
        table(shown, columns, empty="nobody")

    emit(frame, rows, human)


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--direction", "amounts", required=True, metavar="EDITS", help="As in 'beard=+1.5, glasses=-1, hat=on'.")
@click.option("--keep", default="", metavar="A,B", help="Attributes or directions to hold still.")
@click.option("--name", "new", required=True, metavar="NEW", help="Name of the edited identity.")
@click.option("--purpose", metavar="WHAT", help="What for, as consent records name it.")
@takes_frame
def edit(frame: Frame, name: str, amounts: str, keep: str, new: str, purpose: str | None) -> None:
    """Move an identity along directions and register the result as NEW.

    Amounts are in standard deviations of the attribute; `on` and `off` go as far as it takes.
    """
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import edit as service

    with open_registry(frame.settings()) as registry:
        value = service.edit(
            registry, name, service.parse_amounts(amounts), name=new, keep=_list(keep), purpose=purpose
        )

    def human() -> None:
        _warn(value["warnings"])
        moved = ", ".join(f"{k} {v:+.2f}" for k, v in value["amounts"].items())
        click.echo(f"{value['ref']}  from {value['from']}: {moved}  (typicality {value['typicality']:.2f})")

    emit(frame, value, human)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="A B…")
@click.option("--weight", "weights", type=float, multiple=True, help="Share of A (of two), or one weight for each.")
@click.option("--name", "new", required=True, metavar="NEW", help="Name of the mixture.")
@click.option("--purpose", metavar="WHAT", help="What for, as consent records name it.")
@takes_frame
def mix(frame: Frame, names: tuple[str, ...], weights: tuple[float, ...], new: str, purpose: str | None) -> None:
    """Mix identities: `mix alice bob --weight 0.3 --name both` is 0.3 of alice and 0.7 of bob."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import edit as service

    with open_registry(frame.settings()) as registry:
        value = service.mix(registry, names, service.mixing_weights(len(names), weights), name=new, purpose=purpose)

    def human() -> None:
        _warn(value["warnings"])
        parts = ", ".join(f"{w:.2f} of {n}" for n, w in zip(value["from"], value["weights"], strict=True))
        click.echo(f"{value['ref']}  {parts}")

    emit(frame, value, human)


@click.command()
@click.option("-n", "--count", default=1, show_default=True, type=click.IntRange(1, 100_000), help="How many.")
@click.option("--space", metavar="NAME[@V]", help="Weight space (default: the newest).")
@click.option("--name", "prefix", default="sample", show_default=True, help="They are called NAME-001, NAME-002…")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same identities.")
@click.option("--min-distance", default=0.0, show_default=True, type=float, help="1 − score to every identity.")
@click.option(
    "--distribution",
    default="unmixed",
    show_default=True,
    type=click.Choice(["unmixed", "full", "independent"]),
    help="independent: the paper's Gaussians; full: with covariance; unmixed: keeps yes/no attributes yes or no.",
)
@click.option("--kind", default="person", show_default=True, help="person, product, style, animal…")
@click.option("--purpose", metavar="WHAT", help="What for, as consent records name it.")
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
) -> None:
    """Make new identities from the distribution of a space, and register them."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import edit as service

    with open_registry(frame.settings()) as registry:
        value = service.sample(
            registry,
            count,
            space=space,
            name=prefix,
            seed=seed,
            min_distance=min_distance,
            shape=distribution,
            kind=kind,
            purpose=purpose,
        )

    def human() -> None:
        _warn(value["warnings"])
        table(value["samples"], ["ref", "nearest", "distance"], empty="none")
        if value["refused"]:
            note(f"{value['refused']} draws were nearer than {min_distance:g} and were thrown away")

    emit(frame, value, human)


@click.group()
def guess() -> None:
    """Where inversions start: a regression from what the base model sees to coordinates."""


@guess.command(name="fit")
@click.option("--space", metavar="NAME[@V]", help="Weight space (default: the newest).")
@click.option("--photos", type=click.Path(exists=True, file_okay=False), help="A folder of photos per identity.")
@click.option("--drawn", default=0, show_default=True, type=click.IntRange(0), help="Pictures to draw of each.")
@click.option("--components", type=click.IntRange(1), metavar="K", help="Guess the first K components only.")
@click.option("--prompt", help="The prompt the space's LoRAs were trained with (default: 'photo of sks person').")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@engine_options
@takes_frame
def guess_fit(frame: Frame, **options: Any) -> None:
    """Fit the guess on photos of registered identities, on pictures drawn of them, or on both.

    Kept is what the pictures have in common, and none of them.
    """
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import engine as service

    given = _engine(options)
    space, engine = given.pop("space"), given.pop("engine")
    with open_registry(frame.settings()) as registry, progress("looking") as tick:
        value = service.fit_guess(registry, space, engine, progress=tick, **given)

    def human() -> None:
        click.echo(
            f"guess for {value['space']} from {value['pictures']} pictures of {value['identities']} identities: "
            f"explains {value['explained']:.0%} of where strangers lie"
        )
        if value["skipped"]:
            note(f"{value['skipped']} identities were left out: their consent does not cover it")

    emit(frame, value, human)


def _engine(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, with pipeline, device and dtype gathered, and what was not given left to its default."""
    from w2w_registry.services.synthesis.engine import Engine

    rest = {k: v for k, v in options.items() if k not in ("pipeline", "device", "dtype")}
    if rest.get("prompt") is None:
        rest.pop("prompt", None)
    return {**rest, "engine": Engine(options["pipeline"], options["device"], options["dtype"])}


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        warn(text)


def _near(value: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    return f"{value['ref']} ({value['score']:.3f}{', the same' if value['same_identity'] else ''})"
