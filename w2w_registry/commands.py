"""The commands that people are told to type, built in one place.

What stands in such a command may come from a stranger's file (a path, a base model's name), so every argument is one
word to a shell, whatever is in it. A test asks the command line of each whether it takes those words and options.
"""

from __future__ import annotations

import re
import shlex
from typing import Final

PROGRAM: Final = "w2w-reg"
_PLAIN: Final = re.compile(r"[\w@%+=:,./…-]+")
"""Characters that no shell gives a meaning to, letters of every script among them."""


def command(words: str, *arguments: object, **options: object) -> str:
    """``command("resolve", "ana@2", reason="TEXT")`` → ``w2w-reg resolve ana@2 --reason TEXT``.

    ``words``: the command's name with its groups. ``options``: ``True`` for a flag, ``None`` or ``False`` for one that
    is left out, a list for one that is given several times. A value that a reader fills in is written as NAME.
    """
    given = [quoted(value) for value in arguments]
    named = [part for name, value in options.items() for part in _option(name, value)]
    if any(str(value).startswith("-") for value in arguments):  # else a path would be read as an option
        return " ".join([PROGRAM, words, *named, "--", *given])
    return " ".join([PROGRAM, words, *given, *named])


def quoted(value: object) -> str:
    """``value`` as one word of a POSIX shell."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else shlex.quote(text)


def _option(name: str, value: object) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"{flag} {quoted(one)}" for one in values]
