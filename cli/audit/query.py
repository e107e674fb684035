"""``w2w-reg audit query``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, table


@click.command()
@click.argument("question", required=False, metavar="[QUESTION]")
@click.argument("about", required=False, metavar="[ABOUT]")
@click.option("--subject", type=options.Word(), metavar="ID", help="Which subject (subject, spaces).")
@click.option("--photo", metavar="SHA256|FILE", help="Which photo (photo).")
@click.option(
    "--days", metavar="N", type=click.IntRange(0, 36_500), help="How many days ahead (expiring; default: 30)."
)
@click.option("--since", metavar="DATE", help="From this day on (actions).")
@click.option("--until", metavar="DATE", help="Up to this day (actions).")
@click.option("--by", "actor", metavar="WHO", help="Only by this actor (actions).")
@click.option("--action", metavar="WHAT", help="Only this action, or 'consent.' for all of its kind (actions).")
@click.option("--where", metavar="EXPR", help="A free question about versions, as in `w2w-reg list --where`.")
@options.limit
@takes_frame
def query(
    frame: Frame,
    question: str | None,
    about: str | None,
    subject: str | None,
    photo: str | None,
    days: int | None,
    since: str | None,
    until: str | None,
    actor: str | None,
    action: str | None,
    where: str | None,
    limit: int | None,
) -> None:
    """Answer a common question from the catalog and its log.

    \b
    subject ID         everything about a subject: the subject access report
    photo SHA256|FILE  everything derived from a photo or file
    unconsented        published without valid consent
    expiring           consents that expire within --days
    actions            who did what (--since, --until, --by, --action)
    spaces [ID]        which weight spaces were fitted with whom
    mismatched         versions whose files no longer match what was recorded
    unexplained        versions of unknown origin
    withdrawals        withdrawals and takedowns in progress
    held               versions that wait for somebody to decide whom they depict, the most serious first
    versions           versions that match --where EXPR
    """
    from w2w_registry.services.audit import queries as service
    from w2w_registry.services.consent.scopes import parse_day

    asked = question or ("versions" if where else "actions")
    match (asked, about):
        case (_, None):
            pass
        case ("subject" | "spaces", _) if subject is None:
            subject = options.Word().convert(about, None, None)
        case ("photo", _) if photo is None:
            photo = about
        case _:
            raise click.UsageError(f"{about!r} is one word too many for the question {asked!r}")
    filters = service.Filters(
        subject=subject,
        photo=photo,
        days=days,
        since=parse_day(since, end=False),
        until=parse_day(until, end=True),
        actor=actor,
        action=action,
        where=where,
        limit=limit,
    )
    rows = service.ask(frame.registry(), asked, filters)
    emit(frame, rows, lambda: table(rows, service.QUESTIONS[asked].columns))
