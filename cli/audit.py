"""``audit``: the log that cannot be changed unseen, and questions to it."""

from __future__ import annotations

from pathlib import Path

import click

from w2w_registry.records import counted

from .output import Frame, emit, note, pairs, table, takes_frame


@click.group()
def audit() -> None:
    """Sign, verify, prove, export and question the audit log."""


@audit.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the signed note there.")
@takes_frame
def checkpoint(frame: Frame, out: Path | None) -> None:
    """Verify the log and sign its length and Merkle root. Keep a copy out of reach: it proves what was there."""
    from w2w_registry.services.audit import log as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.checkpoint(registry, out=out)

    def human() -> None:
        if not value["created"]:
            note("nothing happened since the last checkpoint")
        click.echo(value["note"].rstrip())
        note(f"public key {value['public_key']}")

    emit(frame, value, human)


@audit.command()
@click.option("--key", metavar="HEX", help="Public key checkpoints must be signed with (default: the registry's own).")
@click.option(
    "--checkpoint",
    "kept",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A note kept elsewhere.",
)
@takes_frame
def verify(frame: Frame, key: str | None, kept: tuple[Path, ...]) -> int:
    """Check the whole chain, all checkpoints, and every row against its events. Exit 6 when something is wrong."""
    from w2w_registry.services.audit import log as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        verdict = service.verify(registry, public_key=service.read_key(key), kept=service.read_notes(kept))
    value = verdict.to_json()

    def human() -> None:
        if verdict.ok:
            held = [(verdict.events, "event"), (verdict.checkpoints, "checkpoint"), (verdict.rows, "row")]
            click.echo(f"OK: {', '.join(counted(number, thing) for number, thing in held)} hold")
            return
        where = "" if verdict.first_bad is None else f", the first at event {verdict.first_bad}"
        click.echo(f"FAILED: {len(verdict.findings)} findings{where}")
        table(value["findings"], ["seq", "code", "what", "expected", "found"])

    emit(frame, value, human)
    return 0 if verdict.ok else 6


@audit.command()
@click.argument("seq", type=click.IntRange(1), metavar="SEQ")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the proof there.")
@takes_frame
def prove(frame: Frame, seq: int, out: Path | None) -> None:
    """Prove that event SEQ is in the log (RFC 9162 inclusion proof, JSON), for examples/verify_audit.py."""
    from w2w_registry.services.audit import log as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.prove(registry, seq)
    if value["checkpoint"] is None:
        note("no checkpoint covers this event yet: run `w2w-reg audit checkpoint` to have it signed")
    frame.json = frame.json or out is None
    if out is not None:
        service.write_json(value, out)
    emit(frame, value, lambda: click.echo(str(out)))


@audit.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@takes_frame
def export(frame: Frame, out: Path) -> None:
    """Write the whole log as JSON lines; check it anywhere with examples/verify_audit.py."""
    from w2w_registry.services.audit import log as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.export(registry, out)
    emit(frame, value, lambda: pairs((key.replace("_", " "), value[key]) for key in value))


@audit.command()
@click.argument("question", required=False, metavar="[QUESTION]")
@click.option("--subject", metavar="ID", help="Which subject (subject, spaces).")
@click.option("--photo", metavar="SHA256|FILE", help="Which photo (photo).")
@click.option("--days", type=click.IntRange(0), default=30, show_default=True, help="How far ahead (expiring).")
@click.option("--since", metavar="DATE", help="From this day on (actions).")
@click.option("--until", metavar="DATE", help="Up to this day (actions).")
@click.option("--by", "actor", metavar="WHO", help="Only by this actor (actions).")
@click.option("--action", metavar="WHAT", help="Only this action, or 'consent.' for all of its kind (actions).")
@click.option("--where", metavar="EXPR", help="A free question about versions, as in `w2w-reg list --where`.")
@click.option("--limit", type=click.IntRange(1), help="At most so many rows.")
@takes_frame
def query(
    frame: Frame,
    question: str | None,
    subject: str | None,
    photo: str | None,
    days: int,
    since: str | None,
    until: str | None,
    actor: str | None,
    action: str | None,
    where: str | None,
    limit: int | None,
) -> None:
    """Ask the catalog and its log a ready question.

    \b
    subject      everything about a subject (--subject ID): the subject access report
    photo        everything derived from a photo or file (--photo SHA256|FILE)
    unconsented  published without valid consent
    expiring     consents that run out within --days
    actions      who did what (--since, --until, --by, --action)
    spaces       which weight spaces were fitted with whom
    mismatched   versions whose files no longer match what was recorded
    unexplained  versions whose origin is not told
    withdrawals  withdrawals and takedowns under way
    versions     versions that match --where EXPR
    """
    from w2w_registry.services.audit import queries as service
    from w2w_registry.services.consent.grants import parse_day
    from w2w_registry.services.registry import open_registry

    asked = question or ("versions" if where else "actions")
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
    with open_registry(frame.settings()) as registry:
        rows = service.ask(registry, asked, filters)
    emit(frame, rows, lambda: table(rows, service.QUESTIONS[asked].columns))


@audit.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="report.html or report.md",
)
@click.option(
    "--days", type=click.IntRange(0), default=30, show_default=True, help="How far ahead consents are looked at."
)
@click.option("--since", metavar="DATE", help="Only actions from this day on.")
@takes_frame
def report(frame: Frame, out: Path, days: int, since: str | None) -> int:
    """Write a report for people: whether the log verifies, and the answers worth reading. Exit 6 when it does not."""
    from w2w_registry.services.audit import queries as service
    from w2w_registry.services.consent.grants import parse_day
    from w2w_registry.services.registry import open_registry

    filters = service.Filters(days=days, since=parse_day(since, end=False))
    with open_registry(frame.settings()) as registry:
        value = service.report(registry, out, filters)

    def human() -> None:
        click.echo(value["path"])
        pairs((heading, f"{number} rows") for heading, number in value["sections"].items())

    emit(frame, value, human)
    return 0 if value["ok"] else 6
