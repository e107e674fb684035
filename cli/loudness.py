"""How much is said beside the answer: ``-q``, ``-v`` and ``--log-file``.

Answers (stdout), warnings and errors are always said; ``-q`` leaves remarks and progress out, ``-v`` adds what the
package's loggers tell and how long it took. A log file gets all of it, with times, whatever the terminal shows.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import stat
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO

import click

_STARTED = time.monotonic()
_state: dict[str, bool] = {"quiet": False, "verbose": False}
_log: dict[str, IO[str]] = {}
_handlers: list[logging.Handler] = []


def set_up(*, quiet: bool, verbose: bool, log_file: str | None) -> None:
    """Follow the options; ``log_file`` is appended to. What an earlier call set up is taken back."""
    _state.update(quiet=quiet, verbose=verbose)
    logger = logging.getLogger("w2w_registry")
    while _handlers:
        logger.removeHandler(_handlers.pop())
    if log_file not in _log:
        close()
        if log_file is not None:
            _refuse_unusual(log_file)
            try:
                _log[log_file] = open(log_file, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            except OSError as error:
                raise click.UsageError(f"--log-file {log_file}: {error.strerror}") from None
            write("command", " ".join(_without_secrets(sys.argv[1:])))
    _handlers.extend([_ToFile()] if _log else [])
    _handlers.extend([logging.StreamHandler(sys.stderr)] if verbose else [])
    for handler in _handlers:
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if _handlers else logging.NOTSET)


def _refuse_unusual(log_file: str) -> None:
    """A pipe would wait for a reader, and a device keeps nothing. Raises UsageError: it is there, and no file."""
    with suppress(OSError):  # what cannot be looked at is not there, or cannot be opened either
        mode = os.stat(log_file).st_mode
        if not stat.S_ISREG(mode):
            what = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
            raise click.UsageError(f"--log-file {log_file}: this is a {what}, not a file")


_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/\s]*(?=@)")
_SECRETS = ("--token", "--identity-token")


def _without_secrets(words: list[str]) -> list[str]:
    """A command line as others may read it: no token, no password of a database."""
    shown = [_PASSWORD.sub(r"\1:***", word) for word in words]
    for option in _SECRETS:
        shown = [f"{option}=***" if word.startswith(f"{option}=") else word for word in shown]
        shown = [word if before != option else "***" for before, word in zip(["", *shown], shown, strict=False)]
    return shown


def close() -> None:
    """Close the log file, if there is one."""
    while _log:
        _log.popitem()[1].close()


atexit.register(close)


def is_quiet() -> bool:
    return _state["quiet"]


def ended(code: int) -> None:
    """The last word: how long it took, and how it ended."""
    seconds = time.monotonic() - _STARTED
    write("end", f"exit {code} after {seconds:.1f} s")
    if _state["verbose"]:
        sys.stderr.write(f"exit {code} after {seconds:.1f} s\n")


def write(kind: str, text: str) -> None:
    """One line into the log file, if there is one."""
    line = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {kind}: {' '.join(text.split())}\n"
    for name, stream in list(_log.items()):
        try:
            stream.write(line)
            stream.flush()
        except OSError as error:  # what is being done matters more than what is said of it
            del _log[name]
            sys.stderr.write(f"warning: --log-file {name}: {error.strerror}; nothing more is written there\n")


class _ToFile(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        write(record.levelname.lower(), self.format(record))
