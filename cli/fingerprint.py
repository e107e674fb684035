"""``w2w-reg fingerprint``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say, warn, warn_all


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--missing",
    "which",
    flag_value="missing",
    help="All versions that have none yet (the default if no names are given).",
)
@click.option("--all", "which", flag_value="all", help="All versions, including those that have one.")
@options.pipeline
@options.prompt
@options.device
@options.ray
@takes_frame
def fingerprint(
    frame: Frame,
    names: tuple[str, ...],
    which: str | None,
    pipeline: str | None,
    prompt: str | None,
    device: str,
    ray: str | None,
) -> None:
    """Fingerprint registered versions: what each makes the base model draw, in 512 numbers.

    Fingerprints find the same person whatever an adapter's rank, modules or tool (`search --by behaviour`). A version
    that turns out to draw somebody other than it claims is held (`resolve`). An interrupted run resumes where it
    stopped.
    """
    from w2w_registry.services.consent.late_look import look_again
    from w2w_registry.services.recording import fingerprints as service

    if names and which:
        raise click.UsageError("name versions, or give --missing or --all; not both")
    registry = frame.registry()
    prober = service.opener(registry, pipeline, device, prompt=prompt or service.PROMPT)()
    with progress("fingerprints") as tick:
        taken = service.take(registry, prober, names, again=which == "all" or bool(names), progress=tick, ray=ray)
    held = look_again(registry, taken.base, taken.question, taken.versions) if taken.taken else []

    def human() -> None:
        warn_all(held[:10])
        if len(held) > 10:
            warn(f"{len(held) - 10} more are held; `w2w-reg audit query held` lists them")
        say(f"{taken.taken} fingerprints taken, {taken.already} already there")
        for ref, reason in taken.skipped[:10]:
            warn(f"{ref}: {reason}")
        if len(taken.skipped) > 10:
            warn(f"{len(taken.skipped) - 10} more could not be taken")
        note(f"base model {taken.base[:12]}, asked with '{prober.prompt}'")

    emit(frame, {**taken.to_json(), "held": held}, human)
