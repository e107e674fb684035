"""Within one snapshot of the catalog what was read once is not read again.

A page asks a dozen services about the same version, and each looks it up by its name, asks for the policy and for the
last event. While all of it is of one snapshot (``Catalog.snapshot``) the answers cannot differ. Elsewhere nothing is
remembered: a long reading loop would hold all it ever met, and a writer has to see what it wrote.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy.orm import Session

_KEPT: Final = "w2w.moment"
Given = ParamSpec("Given")
Found = TypeVar("Found")


def remember(session: Session) -> None:
    """From here on ``session`` is one moment: see :func:`once`."""
    session.info.setdefault(_KEPT, {})


def forget(session: Session) -> None:
    """The moment is over."""
    session.info.pop(_KEPT, None)


def once(read: Callable[Concatenate[Session, Given], Found]) -> Callable[Concatenate[Session, Given], Found]:
    """A question to the catalog that is asked once in a moment.

    What is asked with has to be hashable, or a collection of what is (then its items are what counts). Lists, sets and
    dictionaries are handed out as copies, and those within them too. A refusal is not remembered.
    """

    @wraps(read)
    def asked(session: Session, /, *args: Given.args, **kwargs: Given.kwargs) -> Found:
        kept: dict[Hashable, Any] | None = session.info.get(_KEPT)
        if kept is None:
            return read(session, *args, **kwargs)
        given = tuple(_items(value) for value in args)
        named = {name: _items(value) for name, value in kwargs.items()}
        key = (read, given, tuple(sorted(named.items())))
        if key not in kept:
            kept[key] = read(session, *given, **named)
        found: Found = _copied(kept[key])
        return found

    return asked


def _copied(value: Any) -> Any:
    """Containers anew, what they hold as it is: a row stays the session's."""
    if not isinstance(value, (list, set, dict)):
        return value
    found = copy.copy(value)
    if not isinstance(found, set):
        for place, item in found.items() if isinstance(found, dict) else enumerate(found):
            found[place] = _copied(item)
    return found


def _items(value: Any) -> Any:
    """A collection as something that can be compared and read more than once."""
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else value
