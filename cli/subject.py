"""``subject``: the people and rights holders identities depict, under pseudonymous ids."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .folder_group import HintingGroup
from .frame import Frame, takes_frame
from .output import emit, note, pairs, say, table, warn, warn_all


@click.group(cls=HintingGroup)
def subject() -> None:
    """Register, list and show subjects. Use pseudonymous ids: they stay in the audit log forever."""


@subject.command()
@click.argument("subject_id", type=options.Word(), metavar="ID")
@click.option("--kind", default="person", show_default=True, help="person, rights-holder, estate…")
@takes_frame
def add(frame: Frame, subject_id: str, kind: str) -> None:
    """Register a subject. An existing one is left unchanged (exit 0)."""
    from w2w_registry.services.consent import subjects

    value = subjects.add_subject(frame.registry(), subject_id, kind=kind)
    verb = "added" if value["created"] else "already there:"

    def human() -> None:
        warn_all(value["warnings"])
        say(f"{verb} {value['subject']} ({value['state']})")

    emit(frame, value, human)


@subject.command(name="list")
@takes_frame
def list_(frame: Frame) -> None:
    """List subjects and the state of their consent."""
    from w2w_registry.services.consent import subjects

    rows = subjects.list_subjects(frame.registry())
    columns = ["subject", "kind", "state", "consent", "records", "versions", "created"]
    emit(frame, rows, lambda: table(rows, columns, empty="no subjects yet; `w2w-reg subject add ID`"))


@subject.command()
@click.argument("subject_id", type=options.Word(), metavar="ID")
@takes_frame
def show(frame: Frame, subject_id: str) -> None:
    """Show a subject's consent records, versions and withdrawals (everything: `audit query subject --subject ID`)."""
    from w2w_registry.services.consent import subjects

    value = subjects.show_subject(frame.registry(), subject_id)

    def human() -> None:
        pairs(
            (key.replace("_", " "), value[key]) for key in ("subject", "kind", "state", "consent", "created", "erased")
        )
        say()
        records = [{"record": r["record_id"], "state": r["status"], **r["scope"]} for r in value["records"]]
        columns = ["record", "state", "purposes", "derivatives", "publication", "territory", "expires_at"]
        table(records, columns, empty="no consent has been requested or given")
        say()
        table(value["versions"], ["version", "state"], empty="no version names this subject")

    emit(frame, value, human)


@subject.command()
@click.argument("subject_id", type=options.Word(), metavar="ID")
@click.argument("source", metavar="NAME[@V]|PATH")
@click.option("--space", metavar="NAME[@V]", help="Weight space, for a LoRA file (default: the newest).")
@takes_frame
def protect(frame: Frame, subject_id: str, source: str, space: str | None) -> None:
    """Keep a do-not-recreate reference of a subject, from a registered version or a LoRA that is not registered itself.

    Only a salted sketch is kept, no coordinates. From then on, new models that come too near to it are refused.
    """
    from w2w_registry.services.consent import protect as protecting

    value = protecting.protect_subject(frame.registry(), subject_id, source, space=space)
    emit(
        frame,
        value,
        lambda: say(f"{value['subject']} is protected in {value['space']}, from score {value['threshold']:.3f} up"),
    )


@subject.command()
@click.argument("subject_id", type=options.Word(), metavar="ID")
@click.argument("names", nargs=-1, metavar="[NAME[@V]…]", type=options.Word())
@options.where
@click.option(
    "--evidence",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Proof, such as a signed form or a contract; its digest is kept.",
)
@options.dry_run
@takes_frame
def assign(
    frame: Frame, subject_id: str, names: tuple[str, ...], where: str | None, evidence: Path, dry_run: bool
) -> None:
    """Record that versions depict a registered subject. Somebody other than the person who added them must do this.

    \b
    w2w-reg subject assign s-17 acme/alice --evidence form.pdf
    """
    from w2w_registry.services.identities import assigning

    value = assigning.assign(frame.registry(), subject_id, names, where=where, evidence=evidence, perform=not dry_run)

    def human() -> None:
        verb = "would depict" if dry_run else "depicts"
        for ref in value["assigned"]:
            say(f"{ref} {verb} {value['subject']}")
        for ref in value["blocked"]:
            warn(f"{ref} is blocked: whoever it depicts has withdrawn")
        note(f"{len(value['assigned'])} {'would be ' if dry_run else ''}assigned, {len(value['unchanged'])} unchanged")

    emit(frame, value, human)
