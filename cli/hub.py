"""``w2w-reg push|push-space|pull|sync|releases|takedown``: to and from the Hugging Face Hub."""

from __future__ import annotations

from typing import Any

import click

from .output import Frame, emit, note, pairs, progress, table, takes_frame, warn

_ACCESS = (
    click.option("--private", "access", flag_value="private", help="Only its owner sees it."),
    click.option("--gated", "access", flag_value="gated", help="Everybody sees it; its owner decides who fetches it."),
    click.option("--public", "access", flag_value="public", help="Everybody fetches it (a likeness is gated instead)."),
)


def _takes_access(function: Any) -> Any:
    for option in reversed(_ACCESS):
        function = option(function)
    return function


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.argument("repo_id", metavar="OWNER/REPO")
@_takes_access
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["peft", "diffusers", "kohya"]),
    help="Forms of the LoRA to publish (repeatable; default: peft and diffusers).",
)
@click.option("--coordinates-only", is_flag=True, help="Publish the point in the space, not the LoRA.")
@click.option("--license", "license_", metavar="ID", help="License in the card (default: other, bound to the consent).")
@click.option("--instance-prompt", metavar="TEXT", help="The prompt that calls the identity.")
@click.option("--purpose", metavar="WHAT", help="What for, as consent records name it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@takes_frame
def push(
    frame: Frame,
    name: str,
    repo_id: str,
    access: str | None,
    formats: tuple[str, ...],
    coordinates_only: bool,
    license_: str | None,
    instance_prompt: str | None,
    purpose: str | None,
    dry_run: bool,
) -> None:
    """Publish an identity as a Hub repo that diffusers and PEFT load, with its provenance and consent.

    A person's likeness needs consent for publication, and is private unless --gated is asked for. The
    same content again makes no commit; a changed one makes one commit and a tag.
    """
    from w2w_registry.services.hub import release
    from w2w_registry.services.registry import open_registry

    request = release.push_request(
        name,
        repo_id,
        access=access,
        formats=formats,
        coordinates_only=coordinates_only,
        license=license_,
        instance_prompt=instance_prompt,
        purpose=purpose,
        dry_run=dry_run,
    )
    with open_registry(frame.settings()) as registry, progress("uploading") as tick:
        report = release.push(registry, release.connect(registry), request, tick)
    _show_push(frame, report.to_json(), dry_run)


@click.command(name="push-space")
@click.argument("name", metavar="NAME[@V]")
@click.argument("repo_id", metavar="OWNER/REPO")
@_takes_access
@click.option("--license", "license_", metavar="ID", default="other", show_default=True, help="License in the card.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@takes_frame
def push_space(frame: Frame, name: str, repo_id: str, access: str | None, license_: str, dry_run: bool) -> None:
    """Publish a weight space as a Hub repo, private unless asked; `space import NAME hf://OWNER/REPO` reads it."""
    from w2w_registry.services.hub import release, spaces
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry, progress("uploading") as tick:
        report = spaces.push_space(
            registry,
            release.connect(registry),
            name,
            repo_id,
            access=release.parse_access(access or "private"),
            license=license_,
            dry_run=dry_run,
            progress=tick,
        )
    _show_push(frame, report.to_json(), dry_run)


def _show_push(frame: Frame, value: dict[str, Any], dry_run: bool) -> None:
    def human() -> None:
        for text in value["warnings"]:
            warn(text)
        if dry_run or not value["changed"]:
            for line in value["plan"]:
                click.echo(line)
            return
        click.echo(f"{value['repo']}  {value['access']}  {value['commit'][:12]}  {value['tag']}")

    emit(frame, value, human)


@click.command()
@click.argument("repo", metavar="OWNER/REPO[@REV]")
@click.option("--name", help="Identity name (default: as published, or the repo's name).")
@click.option("--space", metavar="NAME[@V]", help="Weight space for a LoRA that is no release (default: the newest).")
@click.option("--kind", help="What it depicts (default: as published, or person).")
@click.option("--subject", "subjects", multiple=True, metavar="ID", help="Whom it depicts (repeatable).")
@click.option("--base-model", metavar="ID", help="Base model, when the card does not name it.")
@click.option("--file", metavar="PATH", help="The LoRA wanted from a repo that holds several.")
@click.option("--dry-run", is_flag=True, help="Fetch and check; register nothing.")
@takes_frame
def pull(
    frame: Frame,
    repo: str,
    name: str | None,
    space: str | None,
    kind: str | None,
    subjects: tuple[str, ...],
    base_model: str | None,
    file: str | None,
    dry_run: bool,
) -> None:
    """Register what a Hub repo holds: a release of a registry like this one, or anybody's LoRA.

    A release is taken bit for bit after its digests, weights and coordinates were held against one
    another. A stranger's LoRA is placed like an added file. Pickles are never fetched.
    """
    from w2w_registry.services.hub import pull as service
    from w2w_registry.services.hub.release import connect
    from w2w_registry.services.registry import open_registry

    request = service.PullRequest(repo, name, space, kind, subjects, base_model, file, dry_run)
    with open_registry(frame.settings()) as registry, progress("downloading") as tick:
        value = service.pull(registry, connect(registry), request, tick).to_json()

    def human() -> None:
        for text in value["warnings"]:
            warn(text)
        where = value["version"] or "nothing registered (dry run)"
        residual = "" if value["residual"] is None else f"  residual {value['residual']:.3f}"
        click.echo(f"{value['status']}  {where}  in {value['space']}{residual}  consent {value['consent']}")

    emit(frame, value, human)


@click.command()
@click.option("--owner", metavar="O", help="Whose repos to look through (default: yours and your organisations').")
@click.option("--push", is_flag=True, help="Where content differs, make the Hub like the catalog.")
@click.option("--pull", is_flag=True, help="Where content differs, make the catalog like the Hub.")
@click.option("--dry-run", is_flag=True, help="Say what differs; change nothing.")
@takes_frame
def sync(frame: Frame, owner: str | None, push: bool, pull: bool, dry_run: bool) -> int:
    """Bring catalog and Hub to agreement. Exit code 1 says that something (still) differs.

    Begun pushes and takedowns are finished, repos that are too open are closed, releases without consent
    are taken down, and what is gone or renamed there is noted here. Content moves only with --push or --pull.
    """
    from w2w_registry.services.hub import sync as service
    from w2w_registry.services.hub.release import connect
    from w2w_registry.services.registry import open_registry

    from .messages import message

    if push and pull:
        raise click.UsageError("--push and --pull exclude each other")
    with open_registry(frame.settings()) as registry, progress("settling") as tick:
        report = service.sync(
            registry, connect(registry), owner=owner, push=push, pull=pull, dry_run=dry_run, progress=tick
        )
    rows = [
        {
            "difference": str(s.item.difference),
            "action": str(s.item.action),
            "repo": s.item.repo_id,
            "version": s.item.ref,
            "detail": s.item.detail,
            "done": s.done,
            "error": None if s.error is None else message(s.error),
        }
        for s in report.entries
    ]

    def human() -> None:
        for row, entry in zip(rows, report.entries, strict=True):
            mark = "" if dry_run else "  done" if row["done"] else "  left"
            click.echo(f"{entry.item.line}{mark}")
            if row["error"]:
                warn(str(row["error"]))
        note("catalog and Hub agree" if not report.differs else f"{report.left} differences are left")

    emit(frame, {"differs": report.differs, "dry_run": dry_run, "items": rows}, human)
    return 1 if report.differs else 0


@click.command()
@click.option("--where", metavar="EXPR", help="Only releases of identities for which this holds.")
@takes_frame
def releases(frame: Frame, where: str | None) -> None:
    """List what is published, with its state, consent and unfinished takedowns."""
    from w2w_registry.services.hub import sync as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        rows = service.list_releases(registry, where)
    columns = ["version", "repo", "commit", "tag", "access", "format", "state", "consent", "created"]
    shown = [{**row, "commit": row["commit"][:12]} for row in rows]
    emit(frame, rows, lambda: table(shown, columns, empty="nothing published"))


@click.command()
@click.argument("name", metavar="NAME[@V]", required=False)
@click.option("--subject", metavar="ID", help="Everything that depicts this subject, also what was made of it.")
@click.option(
    "--up-to",
    type=click.Choice(["gate", "hide", "erase", "delete"]),
    default="hide",
    show_default=True,
    help="How far: gate it, hide it, hide it and erase its files for good, or delete the repo as well.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@takes_frame
def takedown(frame: Frame, name: str | None, subject: str | None, up_to: str, dry_run: bool) -> int:
    """Take releases off the Hub, step by step, and ask the Hub whether it holds.

    What fails stays queued and is tried again by `w2w-reg sync`. Copies that others downloaded are out of reach.
    """
    from w2w_registry.services.hub import takedown as service
    from w2w_registry.services.hub.release import connect
    from w2w_registry.services.registry import open_registry

    from .messages import message

    if (name is None) == (subject is None):
        raise click.UsageError("say either NAME or --subject")
    with open_registry(frame.settings()) as registry, progress("taking down") as tick:
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
                click.echo(f"{target.repo_id} ({target.ref}): {', '.join(report.steps)}")
            return
        for outcome in report.outcomes:
            pairs([(outcome.repo_id, ", ".join(outcome.done) or "nothing yet")])
            if outcome.error is not None:
                warn(message(outcome.error))
        note("done; copies that others downloaded are out of reach" if report.finished else "the rest stays queued")

    emit(frame, value, human)
    return 0 if report.finished or dry_run else 9
