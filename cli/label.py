"""``w2w-reg label``."""

from __future__ import annotations

import click

from . import options
from .folder_group import HintingGroup
from .frame import Frame, takes_frame
from .output import emit, note, pairs, print_csv, told_changes, warn_unmatched


@click.group(cls=HintingGroup)
def label() -> None:
    """Set, unset, import and export labels of identities."""


@label.command(name="set")
@click.argument("words", nargs=-1, required=True, metavar="[NAME[@V]…] LABEL=VALUE…")
@options.where
@takes_frame
def label_set(frame: Frame, words: tuple[str, ...], where: str | None) -> None:
    """Set labels on one version, on several, or on all that match --where.

    \b
    w2w-reg label set p0007 beard=1 team=ads
    w2w-reg label set --where "tag.team = 'ads'" cleared=1
    """
    from w2w_registry.services.identities import bulk, describing
    from w2w_registry.services.recording.labels import parse_labels

    names, items = options.names_and_items(words)
    if where is None and options.is_one(names):
        value = describing.label(frame.registry(), names[0], parse_labels(items))
        emit(frame, value, lambda: pairs(value["labels"].items()))
        return
    done = bulk.label_many(frame.registry(), names, parse_labels(items), where=where)
    emit(frame, done, lambda: told_changes(done))


@label.command(name="unset")
@click.argument("name", metavar="NAME[@V]")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL…")
@takes_frame
def label_unset(frame: Frame, name: str, labels: tuple[str, ...]) -> None:
    """Remove labels."""
    from w2w_registry.services.identities import describing

    value = describing.unlabel(frame.registry(), name, labels)
    emit(frame, value, lambda: pairs(value["labels"].items()))


@label.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False), metavar="CSV")
@takes_frame
def label_import(frame: Frame, file: str) -> None:
    """Set labels from a CSV file with a row per identity and a column per label.

    Rows that match no identity are listed. Numbers may be written as spreadsheets do: 45% is 0.45, and where a
    column or table has 0,5 in it, 1.234 is a thousand.
    """
    from w2w_registry.services.identities import describing

    done = describing.import_labels(frame.registry(), file)

    def human() -> None:
        warn_unmatched(done.unmatched, "identity")
        note(f"{len(done.updated)} updated, {len(done.unchanged)} unchanged, {len(done.unmatched)} unmatched")

    emit(frame, done.to_json(), human)


@label.command(name="export")
@click.argument("patterns", nargs=-1, metavar="[NAME|PATTERN…]")
@options.where
@takes_frame
def label_export(frame: Frame, patterns: tuple[str, ...], where: str | None) -> None:
    """Print the labels of identities as CSV: a row per identity and a column per label, as `label import` reads them.

    w2w-reg label export > labels.csv
    """
    from w2w_registry.services.identities import browsing

    rows, columns = browsing.labelled(frame.registry(), patterns, where=where)
    emit(frame, rows, lambda: print_csv(rows, columns))
