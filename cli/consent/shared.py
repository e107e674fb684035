"""Options and output that several consent commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .. import options
from ..output import pairs, say, warn_all

if TYPE_CHECKING:
    from w2w_registry.services.consent.showing import RecordShown

TERMS = ("purposes", "uses", "forbidden", "derivatives", "publication", "territory", "expires_at")
"""What a consent says, in the order in which it is told."""

record = click.option("--record", "record_id", metavar="ID", help="Which record, when the subject has several.")


scope: Callable[[Any], Any] = options.together(
    click.option(
        "--purpose", "purposes", multiple=True, metavar="WHAT", help="research, advertising…, or any (repeatable)."
    ),
    click.option("--use", "uses", multiple=True, metavar="USE", help="Only these uses (train, edit…; repeatable)."),
    click.option(
        "--forbid", "forbidden", multiple=True, metavar="WHAT", help="A use or purpose to forbid (repeatable)."
    ),
    click.option("--territory", multiple=True, metavar="CODE", help="Allow only in DE, US, EU, EEA… (repeatable)."),
    click.option("--expires", metavar="DATE", help="Last day of the term."),
)


grants: Callable[[Any], Any] = options.together(
    click.option("--derivatives", is_flag=True, help="Edits and mixes are allowed (implied by --purpose any)."),
    click.option("--publication", is_flag=True, help="Publication is allowed (must always be granted explicitly)."),
    click.option("--from", "valid_from", metavar="DATE", help="First day of the term (default: now)."),
)


notice: Callable[[Any], Any] = options.together(
    click.option("--notice", metavar="REF", help="What the subject was told: a document's id, URL or digest."),
    click.option("--language", metavar="CODE", help="Language of the notice."),
    click.option("--controller", "controllers", multiple=True, metavar="ID", help="Data controller (repeatable)."),
    click.option("--recipient", "recipients", multiple=True, metavar="ID", help="Recipient of the data (repeatable)."),
    click.option("--storage", "storage_location", metavar="WHERE", help="Where the data is stored."),
    click.option("--retention", metavar="TERM", help="How long the data is kept."),
    click.option("--jurisdiction", metavar="CODE", help="Governing law."),
)


def scope_of(given: dict[str, Any]) -> Any:
    from w2w_registry.services.consent import scopes

    return scopes.build_scope(
        given["purposes"],
        uses=given["uses"],
        forbidden=given["forbidden"],
        derivatives=given["derivatives"],
        publication=given["publication"],
        territory=given["territory"],
        valid_from=scopes.parse_day(given["valid_from"], end=False),
        expires_at=scopes.parse_day(given["expires"], end=True),
    )


def notice_of(given: dict[str, Any]) -> dict[str, Any]:
    names = ("notice", "language", "controllers", "recipients", "storage_location", "retention", "jurisdiction")
    return {name: given[name] for name in names}


def say_record(value: RecordShown, done: str) -> None:
    warn_all(value.get("warnings", ()))
    scope = value["scope"]
    say(f"{done}: {value['subject']}, record {value['record_id']}, {value['status']}")
    pairs((key.replace("_", " "), scope[key]) for key in TERMS)
