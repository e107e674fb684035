"""The command tree. Commands load when they are called, so ``w2w-reg --help`` imports click and little else."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from w2w_registry.errors import RegistryError
from w2w_registry.version import __version__

from .output import Frame, report_bug, report_error

# name -> (module, attribute, one-line help). The help stands here so that listing commands imports none of them.
_Commands = dict[str, tuple[str, str, str]]

COMMANDS: _Commands = {
    "init": ("database", "init", "Create a registry: home folder, catalog, policy file."),
    "db": ("database", "db", "Upgrade, inspect and check the catalog's schema."),
    "space": ("space", "space", "Fit, import, list, show and export weight spaces."),
    "add": ("add", "add", "Add LoRAs as identities with coordinates in a space."),
    "search": ("search", "search", "Find the identities nearest to an identity or a LoRA file."),
    "list": ("identity", "list_", "List identities, filtered and sorted."),
    "show": ("identity", "show", "Show one identity with its versions."),
    "remove": ("identity", "remove", "Remove an identity from the registry."),
    "alias": ("identity", "alias", "Set and unset movable names of versions."),
    "tag": ("identity", "tag", "Set and unset tags of identities."),
    "history": ("identity", "history", "Which version an alias meant, and when."),
    "train": ("make", "train", "Train LoRAs of one or many identities from photos."),
    "invert": ("make", "invert", "Turn one photo into an identity."),
    "guess": ("make", "guess", "Learn where inversions start."),
    "direction": ("direction", "direction", "Fit, list, show, compose and de-bias attribute directions."),
    "edit": ("make", "edit", "Move an identity along attribute directions."),
    "mix": ("make", "mix", "Mix identities."),
    "sample": ("make", "sample", "Make new identities from a space."),
    "generate": ("generate", "generate", "Draw an identity."),
    "export": ("export", "export", "Write an identity as a LoRA or as coordinates."),
    "evaluate": ("evaluate", "evaluate", "Measure a space's inversions, edits and samples."),
    "push": ("hub", "push", "Publish an identity on the Hugging Face Hub."),
    "push-space": ("hub", "push_space", "Publish a weight space on the Hub."),
    "pull": ("hub", "pull", "Register what a Hub repo holds."),
    "sync": ("hub", "sync", "Bring catalog and Hub to agreement."),
    "releases": ("hub", "releases", "List what is published."),
    "takedown": ("hub", "takedown", "Take releases off the Hub, and prove it."),
    "subject": ("subject", "subject", "Register, list, show and protect subjects."),
    "consent": ("consent", "consent", "Ask for, record, check and withdraw consent."),
    "audit": ("audit", "audit", "Sign, verify, prove, export and question the audit log."),
    "lineage": ("lineage", "lineage", "Show what a version was made from, or what was made of it."),
    "replay": ("lineage", "replay", "Compute a version again from its recorded inputs."),
    "manifest": ("lineage", "manifest", "Print every fact that fixes what a version is."),
    "sign": ("lineage", "sign", "Sign an exported folder."),
    "verify": ("lineage", "verify", "Verify a signed folder, or a registered version."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps, and imports a command only to run it."""

    def __init__(self, *args: Any, commands_by_name: _Commands | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = commands_by_name or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *sorted(super().list_commands(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute, _ = self._lazy[cmd_name]
        command = getattr(import_module(f".{module}", __package__), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, _, text) in self._lazy.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=2)
            if not near:
                raise
            hint = f"{error.format_message()} Did you mean {' or '.join(repr(n) for n in near)}?"
            raise click.UsageError(hint, ctx) from None


@click.group(
    cls=LazyGroup,
    commands_by_name=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--home", type=click.Path(file_okay=False), help="Registry folder [env: W2W_HOME].")
@click.option("--database", metavar="URL", help="Catalog database [env: W2W_DATABASE_URL].")
@click.option("--actor", metavar="WHO", help="Who acts, for the audit log [env: W2W_ACTOR].")
@click.version_option(__version__, prog_name="w2w-reg")
@click.pass_context
def cli(ctx: click.Context, home: str | None, database: str | None, actor: str | None) -> None:
    """A registry of identity models: who each LoRA draws, made from what, allowed by whom."""
    ctx.obj = Frame(home=home, database=database, actor=actor)


def main(argv: list[str] | None = None) -> None:
    """Console entry: every error a user can meet becomes one line and a documented exit code."""
    args = sys.argv[1:] if argv is None else argv
    as_json = "--json" in args
    try:
        code = cli.main(args=args, prog_name="w2w-reg", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Aborted: nothing more was changed.", err=True)
        sys.exit(130)
    except RegistryError as error:
        report_error(error, as_json=as_json)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) left early: not an error, but Python must not flush into the closed pipe.
        sys.stdout = None
        sys.exit(0)
    except Exception as error:  # the last boundary: say it is a bug, keep the traceback for the report
        report_bug(error)
        raise
