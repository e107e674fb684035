"""``w2w-reg add``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say, warn


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--space", metavar="NAME[@V]", help="Weight space to place them in (default: the newest).")
@click.option("--name", help="Identity name (one PATH only; default: the file's or folder's name).")
@options.prefix
@options.kind
@options.subjects
@options.labels
@click.option(
    "--labels", "labels_csv", type=click.Path(dir_okay=False), help="CSV: a row per name, a column per label."
)
@click.option("--base-model", metavar="ID", help="Base model, for files that do not name theirs.")
@options.dry_run
@takes_frame
def add(
    frame: Frame,
    paths: tuple[str, ...],
    space: str | None,
    name: str | None,
    prefix: str,
    kind: str,
    subjects: tuple[str, ...],
    labels: tuple[str, ...],
    labels_csv: str | None,
    base_model: str | None,
    dry_run: bool,
) -> int:
    """Add LoRA files, folders or globs as identities, with coordinates in a weight space.

    A folder of LoRA folders adds them all. The same content again is "already there" (exit 0), also when
    it was re-saved in another format or dtype; a --subject not named before is then added to what is there.
    A name that exists gets a new version. Files that cannot be
    used are reported one by one; the good ones are added all the same (exit 5 says some were not).
    """
    from w2w_registry.messages import message
    from w2w_registry.services.identities import ingest
    from w2w_registry.services.recording.labels import parse_labels

    request = ingest.AddRequest(
        paths=paths,
        space=space,
        name=name,
        prefix=prefix,
        kind=kind,
        subjects=subjects,
        labels=parse_labels(labels),
        labels_csv=labels_csv,
        base_model=base_model,
        dry_run=dry_run,
    )
    with progress("adding") as tick:
        report = ingest.add(frame.registry(), request, tick)

    rows = []
    for item in report.items:
        row = item.to_json()
        if item.error is not None:
            row["error"] = message(item.error)
        rows.append(row)
    counts = {status: sum(r["status"] == status for r in rows) for status in ("added", "existing", "failed")}

    def human() -> None:
        for row in rows if len(rows) <= 20 else [r for r in rows if r["status"] != "added"][:50]:
            if row["status"] == "failed":
                warn(row["error"])
            elif row["status"] == "existing":
                say(f"already there  {row['identity']}@{row['version']}  {row['path']}{_because(row)}")
            else:
                verb = "would add" if dry_run else "added"
                say(f"{verb}  {row['identity']}@{row['version']}  residual {row['residual']:.3f}")
        for row in rows:
            for text in row["warnings"][:3]:
                warn(f"{row['identity']}: {text}")
        note(
            f"{counts['added']} {'would be ' if dry_run else ''}added, {counts['existing']} already there, "
            f"{counts['failed']} failed, in space {report.space}"
        )

    emit(frame, {**counts, "space": report.space, "identities": rows}, human)
    return report.exit_code


def _because(row: dict[str, object]) -> str:
    return f"  (same model: {row['same_model']})" if row.get("same_model") else ""
