"""``w2w-reg audit query``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, table


class _Query(click.Command):
    """Its help lists the questions there are."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from w2w_registry.services.audit.queries import QUESTIONS

        super().format_help_text(ctx, formatter)
        rows = []
        for name, question in QUESTIONS.items():
            flags = ", ".join(
                param.opts[0] for param in self.params if param.expose_value and param.name in question.takes
            )
            rows.append((name, f"{question.heading} ({flags})" if flags else question.heading))
        with formatter.section("Questions"):
            formatter.write_dl(rows)


@click.command(cls=_Query)
@click.argument("question", required=False, metavar="[QUESTION]")
@click.argument("about", required=False, metavar="[ABOUT]")
@click.option("--subject", type=options.Word(), metavar="ID", help="About this subject.")
@click.option("--photo", metavar="SHA256|FILE", help="About this photo or file.")
@click.option("--days", metavar="N", type=click.IntRange(0, 36_500), help="How many days ahead (default: 30).")
@click.option("--since", metavar="DATE", help="From this day on.")
@click.option("--until", metavar="DATE", help="Up to this day.")
@click.option("--by", "actor", metavar="WHO", help="Only by this actor.")
@click.option("--action", metavar="WHAT", help="Only this action, or all of a kind, as in 'consent.'.")
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

    For questions that take one, ABOUT is the subject's ID, or the photo's SHA-256 or file.
    """
    from w2w_registry.services.audit import queries as service
    from w2w_registry.services.consent.scopes import parse_day

    asked = question or ("versions" if where else "actions")
    takes = service.QUESTIONS[asked].takes if asked in service.QUESTIONS else frozenset()
    if about is not None and "subject" in takes and subject is None:
        subject = options.Word().convert(about, None, None)
    elif about is not None and "photo" in takes and photo is None:
        photo = about
    elif about is not None and asked in service.QUESTIONS:
        raise click.UsageError(f"{about!r} is one argument too many for the question {asked!r}")
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
