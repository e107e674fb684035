"""``list``, ``show``, ``remove``, ``alias``, ``tag``, ``history``: looking after identities."""

from __future__ import annotations

import click

from .output import Frame, emit, note, pairs, table, takes_frame


@click.command(name="list")
@click.option("--where", metavar="EXPR", help="Filter, as in \"kind = person and beard > 0.5 and tag.team = 'ads'\".")
@click.option("--sort", default="name", show_default=True, help="Field to sort by; '-' before it turns it round.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@takes_frame
def list_(frame: Frame, where: str | None, sort: str, limit: int | None) -> None:
    """List identities (their newest active versions)."""
    from w2w_registry.services.identities import manage
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        rows = manage.list_identities(registry, where=where, sort=sort, limit=limit)

    def human() -> None:
        columns = ["identity", "version", "kind", "state", "space", "residual", "consent", "created"]
        table(rows, columns, empty="no identities match" if where else "no identities yet; `w2w-reg add PATH…`")

    emit(frame, rows, human)


@click.command()
@click.argument("name", metavar="NAME[@V]")
@takes_frame
def show(frame: Frame, name: str) -> None:
    """Show one identity: its versions, coordinates digest, operation, labels, tags and aliases."""
    from w2w_registry.services.identities import manage
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = manage.show(registry, name)

    def human() -> None:
        skip = {"versions", "operation"}
        pairs((k.replace("_", " "), v) for k, v in value.items() if k not in skip)
        operation = value["operation"]
        pairs([("made by", f"{operation['kind']} by {operation['agent']} at {operation['started_at']}")])
        click.echo()
        table(value["versions"], ["version", "state", "space", "residual", "operation", "created"])

    emit(frame, value, human)


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--yes", is_flag=True, help="Do it; without this only the plan is printed.")
@click.option("--dry-run", is_flag=True, help="Print what would be removed.")
@takes_frame
def remove(frame: Frame, name: str, yes: bool, dry_run: bool) -> int:
    """Remove an identity (or one version) from the registry: it is no longer found, listed or served.

    Its history stays in the audit log. To erase a person's data for good, see `consent withdraw --erase`.
    """
    from w2w_registry.services.identities import manage
    from w2w_registry.services.registry import open_registry

    perform = yes and not dry_run
    with open_registry(frame.settings()) as registry:
        plan = manage.remove(registry, name, perform=perform)

    def human() -> None:
        verb = "removed" if perform else "would remove"
        for version in plan["versions"]:
            click.echo(f"{verb}  {version}")
        if not perform and not dry_run:
            note("nothing was changed; add --yes to remove")

    emit(frame, plan, human)
    return 0 if perform or dry_run else 2


@click.group()
def alias() -> None:
    """Set and unset movable names of versions, as in p0007@production."""


@alias.command(name="set")
@click.argument("alias_name", metavar="ALIAS")
@click.argument("target", metavar="NAME[@V]")
@takes_frame
def alias_set(frame: Frame, alias_name: str, target: str) -> None:
    """Let ALIAS mean a version of an identity: `alias set production p0007@2`."""
    from w2w_registry.services.identities import manage
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = manage.set_alias(registry, alias_name, target)
    emit(frame, value, lambda: click.echo(f"{value['identity']}@{value['alias']} is now version {value['version']}"))


@alias.command(name="unset")
@click.argument("alias_name", metavar="ALIAS")
@click.argument("name", metavar="NAME")
@takes_frame
def alias_unset(frame: Frame, alias_name: str, name: str) -> None:
    """Take an alias away from an identity."""
    from w2w_registry.services.identities import manage
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = manage.unset_alias(registry, alias_name, name)
    emit(frame, value, lambda: click.echo(f"{value['identity']}@{value['alias']} is gone"))


@click.group()
def tag() -> None:
    """Set and unset tags of identities."""


@tag.command(name="set")
@click.argument("name", metavar="NAME")
@click.argument("items", nargs=-1, required=True, metavar="KEY=VALUE…")
@takes_frame
def tag_set(frame: Frame, name: str, items: tuple[str, ...]) -> None:
    """Set tags: `tag set p0007 team=ads campaign=spring`."""
    from w2w_registry.services.identities import manage
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = manage.set_tags(registry, name, items)
    emit(frame, value, lambda: pairs(value["tags"].items()))


@tag.command(name="unset")
@click.argument("name", metavar="NAME")
@click.argument("keys", nargs=-1, required=True, metavar="KEY…")
@takes_frame
def tag_unset(frame: Frame, name: str, keys: tuple[str, ...]) -> None:
    """Take tags away."""
    from w2w_registry.services.identities import manage
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = manage.unset_tags(registry, name, keys)
    emit(frame, value, lambda: pairs(value["tags"].items()))


@click.command()
@click.argument("name", metavar="NAME[@ALIAS]")
@click.option("--at", metavar="DATE", help="Only what each alias meant at this moment (ISO date or time, UTC).")
@takes_frame
def history(frame: Frame, name: str, at: str | None) -> None:
    """Which version each alias of an identity meant, and from when to when."""
    from w2w_registry.services.identities import manage
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        rows = manage.history(registry, name, at=at)
    emit(frame, rows, lambda: table(rows, ["alias", "version", "since", "until"], empty="no alias was ever set"))
