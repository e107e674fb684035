"""``w2w-reg consent withdraw``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note, pairs, say, say_text, table


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@click.option("--erase", is_flag=True, help="Erase coordinates, files, previews and caches for good (needs --yes).")
@click.option(
    "--protect/--forget",
    default=True,
    help="Keep references of the likeness, so that it is refused from now on; --forget (two people) keeps none.",
)
@options.dry_run
@click.option("--yes", is_flag=True, help="Erase without asking.")
@click.option(
    "--receipt", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write the receipt there (.md or .json)."
)
@click.option("--lang", help="The receipt's language: en or ja (default: the notice's).")
@options.force
@takes_frame
def withdraw(
    frame: Frame,
    subject: str,
    erase: bool,
    protect: bool,
    dry_run: bool,
    yes: bool,
    out: Path | None,
    lang: str | None,
    force: bool,
) -> int:
    """Withdraw everything a subject granted, and act on it.

    Everything that depicts the subject, or was made from it, is taken out of service and out of search at once;
    releases are queued for takedown (`w2w-reg takedown`). With --erase, coordinates and files are erased for good. An
    interrupted withdrawal resumes where it stopped; repeating a finished one changes nothing.
    """
    from w2w_registry.services.consent import withdraw as service
    from w2w_registry.services.recording.outputs import check_outputs

    registry = frame.registry()
    if out is not None:
        check_outputs(registry, out, force=force)
    if dry_run or (erase and not yes):
        plan = service.plan_withdrawal(registry, subject, erase=erase, protect=protect, language=lang).to_json()
        emit(frame, plan, lambda: _show_plan(plan))
        if not dry_run:
            note("nothing was changed; add --yes to erase")
        return 0 if dry_run else 2
    value = service.withdraw(registry, subject, erase=erase, protect=protect, language=lang)
    if out is not None:
        service.write_receipt(value, out)

    def human() -> None:
        if value["already"]:
            note("already withdrawn; nothing was left to do")
        say_text(value["markdown"])

    emit(frame, value, human)
    return 0


def _show_plan(plan: dict[str, Any]) -> None:
    pairs((("subject", plan["subject"]), ("steps", plan["steps"]), ("records to withdraw", len(plan["records"]))))
    say()
    table(plan["versions"], ["ref", "derived", "state"], empty="no version depicts this subject")
    for title, key in (("releases to take down", "releases"), ("files to erase", "purged_artifacts")):
        if plan[key]:
            say(f"{title}: {len(plan[key])}")
    for title, key in (("weight spaces fitted with them", "spaces"), ("to be notified", "recipients")):
        if plan[key]:
            say(f"{title}: {', '.join(plan[key])}")
