"""``w2w-reg takedown``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, pairs, progress, say, warn_all


@click.command()
@click.argument("name", metavar="NAME[@V]", required=False)
@click.option(
    "--subject", type=options.Word(), metavar="ID", help="Everything that depicts this subject, derivatives included."
)
@click.option(
    "--up-to",
    type=click.Choice(["gate", "hide", "erase", "delete"]),
    default="hide",
    show_default=True,
    help="How far to go: gate the repo, hide it, also erase its files for good, or also delete the repo.",
)
@options.dry_run
@takes_frame
def takedown(frame: Frame, name: str | None, subject: str | None, up_to: str, dry_run: bool) -> int:
    """Take releases off the Hub step by step, and check with the Hub that they are gone.

    What fails stays queued and is tried again by `w2w-reg sync`. Copies that others downloaded are out of reach.
    """
    from w2w_registry.messages import message
    from w2w_registry.services.hub import takedown as service
    from w2w_registry.services.hub.connecting import connect

    if (name is None) == (subject is None):
        raise click.UsageError("give either NAME or --subject")
    registry = frame.registry()
    with progress("taking down") as tick:
        report = service.takedown(
            registry, connect(registry), name=name, subject=subject, up_to=up_to, dry_run=dry_run, progress=tick
        )
    outcomes = [
        {
            "repo": o.repo_id,
            "done": list(o.done),
            "finished": o.finished,
            "error": None if o.error is None else message(o.error),
        }
        for o in report.outcomes
    ]
    value = {
        "targets": [{"repo": t.repo_id, "version": t.ref} for t in report.targets],
        "steps": [str(step) for step in report.steps],
        "outcomes": outcomes,
        "finished": report.finished,
        "dry_run": dry_run,
    }

    def human() -> None:
        if dry_run:
            for target in report.targets:
                say(f"{target.repo_id} ({target.ref}): {', '.join(report.steps)}")
            return
        for outcome in report.outcomes:
            pairs([(outcome.repo_id, ", ".join(outcome.done) or "nothing yet")])
        warn_all(list(dict.fromkeys(message(o.error) for o in report.outcomes if o.error is not None)))
        left = "the rest stays queued; `w2w-reg sync` tries it again"
        note("done; copies that others downloaded are out of reach" if report.finished else left)

    emit(frame, value, human)
    return 0 if report.finished or dry_run else 9
