"""``consent``: what subjects agreed to, and taking it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .output import Frame, emit, note, pairs, table, takes_frame

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def consent() -> None:
    """Ask for, record, check and withdraw consent."""


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


_RECORD = click.option("--record", "record_id", metavar="ID", help="Which record, when the subject has several.")
_SCOPE: Callable[[Any], Any] = _options(
    click.option(
        "--purpose", "purposes", multiple=True, metavar="WHAT", help="research, advertising…, or any (repeatable)."
    ),
    click.option("--use", "uses", multiple=True, metavar="USE", help="Only these uses (train, edit…; repeatable)."),
    click.option(
        "--forbid", "forbidden", multiple=True, metavar="WHAT", help="A use or purpose ruled out (repeatable)."
    ),
    click.option("--territory", multiple=True, metavar="CODE", help="Only there: DE, US, EU, EEA (repeatable)."),
    click.option("--expires", metavar="DATE", help="Last day of the term."),
)
_GRANTS: Callable[[Any], Any] = _options(
    click.option("--derivatives", is_flag=True, help="Edits and mixes are allowed (implied by --purpose any)."),
    click.option("--publication", is_flag=True, help="Publication is allowed (always has to be named)."),
    click.option("--from", "valid_from", metavar="DATE", help="First day of the term (default: now)."),
)
_NOTICE: Callable[[Any], Any] = _options(
    click.option("--notice", metavar="REF", help="What the subject was told: a document's id, URL or digest."),
    click.option("--language", metavar="CODE", help="Language of the notice."),
    click.option("--controller", "controllers", multiple=True, metavar="ID", help="Who is responsible (repeatable)."),
    click.option("--recipient", "recipients", multiple=True, metavar="ID", help="Who receives data (repeatable)."),
    click.option("--storage", "storage_location", metavar="WHERE", help="Where data is kept."),
    click.option("--retention", metavar="TERM", help="How long data is kept."),
    click.option("--jurisdiction", metavar="CODE", help="Whose law applies."),
)


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@_SCOPE
@_GRANTS
@_NOTICE
@takes_frame
def request(frame: Frame, subject: str, **options: Any) -> None:
    """Write down that a consent was asked for. It allows nothing until `consent grant --request ID`."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    scope, notice = _scope(options), service.build_notice(**_notice(options))
    with open_registry(frame.settings()) as registry:
        value = service.request(registry, subject, scope, notice=notice)
    emit(frame, value, lambda: _say(value, "asked for"))


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@_SCOPE
@_GRANTS
@_NOTICE
@click.option("--request", "record_id", metavar="ID", help="The request this answers.")
@click.option("--evidence", type=click.Path(dir_okay=False, path_type=Path), help="A signed form…: kept by its digest.")
@click.option("--keep-evidence", is_flag=True, help="Keep the evidence's content too.")
@click.option("--guardian", metavar="ID", help="Who consents for the subject: guardian or estate.")
@click.option("--compensation", metavar="TEXT", help="What the subject gets.")
@click.option("--training-set", "training_set_digest", metavar="SHA256", help="Digest of the photos it is about.")
@takes_frame
def grant(
    frame: Frame,
    subject: str,
    record_id: str | None,
    evidence: Path | None,
    keep_evidence: bool,
    guardian: str | None,
    compensation: str | None,
    training_set_digest: str | None,
    **options: Any,
) -> None:
    """Write down a consent.

    `--purpose any` grants every purpose, derivatives included; publication always has to be named. Models a
    withdrawal had blocked, and nobody else upstream holds back, are served again.
    """
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    scope = None if record_id is not None and not options["purposes"] else _scope(options)
    with open_registry(frame.settings()) as registry:
        value = service.grant(
            registry,
            subject,
            scope,
            record_id=record_id,
            notice=service.build_notice(**_notice(options)),
            guardian=guardian,
            compensation=compensation,
            evidence=evidence,
            keep_evidence=keep_evidence,
            training_set_digest=training_set_digest,
        )

    def human() -> None:
        _say(value, "granted")
        if value["restored"]:
            note(f"{len(value['restored'])} versions are served again")

    emit(frame, value, human)


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@_SCOPE
@click.option("--no-derivatives", is_flag=True, help="No edits and mixes any more.")
@click.option("--no-publication", is_flag=True, help="No publication any more.")
@_RECORD
@takes_frame
def narrow(frame: Frame, subject: str, record_id: str | None, **options: Any) -> None:
    """Make a consent smaller; what is not named stays as it is. A wider one is a new grant."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    expires = service.parse_day(options.pop("expires"), end=True)
    with open_registry(frame.settings()) as registry:
        value = service.narrow(
            registry,
            subject,
            lambda scope: service.narrowed(scope, expires_at=expires, **options),
            record_id=record_id,
        )
    emit(frame, value, lambda: _say(value, "narrowed"))


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@click.option("--expires", metavar="DATE", help="New last day (default: until withdrawn).")
@_RECORD
@takes_frame
def renew(frame: Frame, subject: str, expires: str | None, record_id: str | None) -> None:
    """Lengthen the term of a consent, also of one that has run out."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.renew(registry, subject, service.parse_day(expires, end=True), record_id=record_id)
    emit(frame, value, lambda: _say(value, "renewed"))


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@click.option("--erase", is_flag=True, help="Erase coordinates, files, previews and caches for good (needs --yes).")
@click.option("--protect", is_flag=True, help="Keep a do-not-recreate reference, as the subject wishes.")
@click.option("--dry-run", is_flag=True, help="Print the plan; change nothing.")
@click.option("--yes", is_flag=True, help="Erase without asking.")
@click.option(
    "--receipt", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write the receipt there (.md or .json)."
)
@takes_frame
def withdraw(frame: Frame, subject: str, erase: bool, protect: bool, dry_run: bool, yes: bool, out: Path | None) -> int:
    """Withdraw everything a subject granted, and act on it.

    What depicts the subject, and all made from it, is out of service and out of search at once; releases are
    queued for takedown (`w2w-reg takedown`). With --erase, coordinates and files go for good. A withdrawal that
    was interrupted goes on where it stopped; done twice is done once.
    """
    from w2w_registry.services.consent import withdraw as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        if dry_run or (erase and not yes):
            plan = service.plan_withdrawal(registry, subject, erase=erase, protect=protect).to_json()
            emit(frame, plan, lambda: _show_plan(plan))
            if not dry_run:
                note("nothing was changed; add --yes to erase")
            return 0 if dry_run else 2
        value = service.withdraw(registry, subject, erase=erase, protect=protect)
    if out is not None:
        service.write_receipt(value, out)

    def human() -> None:
        if value["already"]:
            note("withdrawn before; nothing was left to do")
        click.echo(value["markdown"].rstrip())

    emit(frame, value, human)
    return 0


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@_RECORD
@takes_frame
def invalidate(frame: Frame, subject: str, record_id: str | None) -> None:
    """Record that a consent never held (forged, coerced, not theirs to give), and block what hung on it."""
    from w2w_registry.services.consent import withdraw as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.invalidate(registry, subject, record_id=record_id)
    emit(
        frame,
        value,
        lambda: click.echo(
            f"{len(value['invalidated'])} records invalidated, {value['blocked']} versions blocked, "
            f"{value['releases_queued']} releases queued for takedown"
        ),
    )


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@_RECORD
@takes_frame
def dispute(frame: Frame, subject: str, record_id: str | None) -> None:
    """Suspend a consent that somebody contests."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.dispute(registry, subject, record_id=record_id)
    emit(frame, value, lambda: _say(value, "suspended"))


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@click.option("--upheld/--rejected", required=True, help="Whether the consent stands.")
@_RECORD
@takes_frame
def resolve(frame: Frame, subject: str, upheld: bool, record_id: str | None) -> None:
    """End a dispute: the consent stands again, or is invalidated."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.resolve(registry, subject, upheld=upheld, record_id=record_id)
    emit(frame, value, lambda: _say(value, "stands again" if upheld else "invalidated"))


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@takes_frame
def show(frame: Frame, subject: str) -> None:
    """Show a subject's consent records."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.show(registry, subject)

    def human() -> None:
        pairs((("subject", value["subject"]), ("state", value["state"]), ("consent", value["consent"])))
        rows = [{"record": r["record_id"], "state": r["status"], **r["scope"]} for r in value["records"]]
        columns = ["record", "state", "purposes", "uses", "forbidden", "derivatives", "publication", "territory"]
        click.echo()
        table(rows, [*columns, "expires_at"], empty="no consent was asked for or given")

    emit(frame, value, human)


@consent.command()
@click.argument("subject", metavar="SUBJECT")
@_RECORD
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write RECORD.json and RECORD.md there.")
@takes_frame
def receipt(frame: Frame, subject: str, record_id: str | None, out: Path | None) -> None:
    """Issue the receipts of a subject's consents: Markdown, or with --json JSON-LD (W3C DPV, ISO/IEC TS 27560)."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        found = service.receipt(registry, subject, record_id=record_id)
        written = service.write_receipts(found, out) if out is not None else []

    def human() -> None:
        for path in written:
            click.echo(path)
        if not written:
            click.echo("\n".join(r["markdown"] for r in found).rstrip())

    emit(frame, [r["json"] for r in found], human)


@consent.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--use", "uses", multiple=True, metavar="USE", help="Only these uses (repeatable; default: all).")
@click.option("--purpose", metavar="WHAT", help="What for (default: the registry's purpose).")
@click.option("--territory", metavar="CODE", help="Where (default: the registry's territory).")
@click.option("--at", metavar="DATE", help="At this moment (default: now).")
@takes_frame
def check(
    frame: Frame, name: str, uses: tuple[str, ...], purpose: str | None, territory: str | None, at: str | None
) -> int:
    """Say what may be done with a version, and why not. Exit 4 when one of the uses asked about is denied."""
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.registry import open_registry

    chosen: dict[str, Any] = {"uses": uses} if uses else {}
    with open_registry(frame.settings()) as registry:
        value = service.check(
            registry, name, purpose=purpose, territory=territory, at=service.parse_day(at, end=False), **chosen
        )

    def human() -> None:
        pairs((("version", value["version"]), ("consent", value["consent"]), ("purpose", value["purpose"])))
        click.echo()
        table(value["decisions"], ["use", "allowed", "reasons", "warnings"])

    emit(frame, value, human)
    return 4 if uses and not all(d["allowed"] for d in value["decisions"]) else 0


def _scope(options: dict[str, Any]) -> Any:
    from w2w_registry.services.consent import grants as service

    return service.build_scope(
        options["purposes"],
        uses=options["uses"],
        forbidden=options["forbidden"],
        derivatives=options["derivatives"],
        publication=options["publication"],
        territory=options["territory"],
        valid_from=service.parse_day(options["valid_from"], end=False),
        expires_at=service.parse_day(options["expires"], end=True),
    )


def _notice(options: dict[str, Any]) -> dict[str, Any]:
    names = ("notice", "language", "controllers", "recipients", "storage_location", "retention", "jurisdiction")
    return {name: options[name] for name in names}


def _say(value: dict[str, Any], done: str) -> None:
    scope = value["scope"]
    click.echo(f"{done}: {value['subject']}, record {value['record_id']}, {value['status']}")
    keys = ("purposes", "uses", "forbidden", "derivatives", "publication", "territory", "expires_at")
    pairs((key.replace("_", " "), scope[key]) for key in keys)


def _show_plan(plan: dict[str, Any]) -> None:
    pairs((("subject", plan["subject"]), ("steps", plan["steps"]), ("records to withdraw", len(plan["records"]))))
    click.echo()
    table(plan["versions"], ["ref", "derived", "state"], empty="no version depicts this subject")
    for title, key in (("releases to take down", "releases"), ("files to erase", "purged_artifacts")):
        if plan[key]:
            click.echo(f"{title}: {len(plan[key])}")
    for title, key in (("weight spaces fitted with them", "spaces"), ("to be told", "recipients")):
        if plan[key]:
            click.echo(f"{title}: {', '.join(plan[key])}")
