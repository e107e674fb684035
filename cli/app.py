"""The command tree and the console entry."""

from __future__ import annotations

import difflib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from w2w_registry.errors import BadFile, RegistryError
from w2w_registry.files import why
from w2w_registry.version import __version__

from . import completion, loudness
from .folder_group import FolderGroup
from .frame import Frame
from .output import open_standard_streams, output_lost, report, report_bug, report_error
from .sections import COMMANDS, EXAMPLES, SECTIONS


@click.group(
    cls=FolderGroup,
    package=__package__,
    helps=COMMANDS,
    former={"guess": "initializer"},
    sections=SECTIONS,
    epilog="\b\nExamples:\n  " + "\n  ".join(EXAMPLES),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--home", type=click.Path(file_okay=False), help="Registry folder [env: W2W_HOME].")
@click.option("--database", metavar="URL", help="Catalog database [env: W2W_DATABASE_URL].")
@click.option("--actor", metavar="WHO", help="Name recorded in the audit log [env: W2W_ACTOR].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (may also follow the command's name).")
@click.option("-q", "--quiet", is_flag=True, help="Print only results, warnings and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Also print what is being done and how long it took.")
@click.option("--log-file", type=click.Path(dir_okay=False), metavar="FILE", help="Also append every message to FILE.")
@click.option(
    "--install-completion",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=completion.install,
    help="Set up shell completion of commands, identities, spaces, directions and aliases.",
)
@click.version_option(__version__, prog_name="w2w-reg")
@click.pass_context
def cli(
    ctx: click.Context,
    home: str | None,
    database: str | None,
    actor: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    log_file: str | None,
) -> None:
    """A registry of identity models: whom each LoRA draws, what it was made from, and who allowed it."""
    ctx.obj = Frame(home, database, actor, as_json, quiet, verbose, log_file)
    loudness.set_up(quiet=quiet, verbose=verbose, log_file=log_file)


def main(argv: list[str] | None = None) -> None:
    """Console entry: every error a user can meet becomes one line and a documented exit code."""
    args = sys.argv[1:] if argv is None else argv
    as_json = "--json" in args
    open_standard_streams()
    try:
        _run(args, as_json=as_json)
    except SystemExit as stop:
        loudness.ended(stop.code if isinstance(stop.code, int) else 1)
        raise


def _run(args: list[str], *, as_json: bool) -> None:
    try:
        with _ending_in_order():
            code = cli.main(args=args, prog_name="w2w-reg", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        report("usage", usage_message(error), error.exit_code, {}, as_json=as_json)
        sys.exit(error.exit_code)
    except click.Abort as stop:
        more = "; run the same command again to continue" if isinstance(stop.__cause__, KeyboardInterrupt) else ""
        told = str(stop.__cause__ or "")  # a command that was interrupted may say itself how far it got
        click.echo(f"Aborted: {told or f'nothing more was changed{more}'}.", err=True)
        sys.exit(130)
    except RegistryError as error:
        report_error(error, as_json=as_json)
        sys.exit(error.exit_code)
    except OSError as error:
        lost = output_lost(error) or _no_file_name(error)
        if lost is None:
            report_bug(error)
            raise
        report_error(lost, as_json=as_json)
        sys.exit(lost.exit_code)
    except Exception as error:  # the last boundary: say it is a bug, keep the traceback for the report
        report_bug(error)
        raise


def _no_file_name(error: OSError) -> RegistryError | None:
    """What to say where something typed is longer than a file's name can be."""
    if error.errno != errno.ENAMETOOLONG:
        return None
    return BadFile(path=f"{os.path.basename(str(error.filename))[:40]}…", reason=why(error))


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as an exception does, so that temporary files go and transactions roll back;
    where they are ignored (nohup) they stay so."""
    kept: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                kept[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    sys.exit(128 + number)


_PLAIN = {"integer": "whole number", "float": "number"}
_PLAINER = re.compile(r"is not a valid (integer|float)(?: range)?")
"""What click calls a type, and what a person calls it."""


def usage_message(error: click.ClickException) -> str:
    """What click found wrong, in one line, with the help to read."""
    if isinstance(error, click.NoSuchOption):
        near = [one for one in error.possibilities or () if alike(error.option_name, one)]
        error = click.NoSuchOption(error.option_name, error.message, near, error.ctx)
    text = _PLAINER.sub(lambda m: f"is not a {_PLAIN[m[1]]}", " ".join(error.format_message().split()))
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return text
    read = f"see `{context.command_path} --help`"
    return f"{text} ({read})" if text.endswith("?") else f"{text.rstrip('.')}; {read}"


def alike(typed: str, option: str) -> bool:
    """Whether somebody who typed one option may have meant the other: click's own likeness counts the dashes, and so
    offers ``--quiet`` to whoever types ``--subject``."""
    typed, option = typed.lstrip("-"), option.lstrip("-")
    return typed[:4] == option[:4] or difflib.SequenceMatcher(None, typed, option).ratio() > 0.7
