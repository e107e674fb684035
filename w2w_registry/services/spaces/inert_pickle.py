"""What a pickle describes, without running anything it names.

A pickle is a program: its instructions push values, look up names and call them. Python's own ``Unpickler`` carries
them out here, but a name never becomes the thing it names: it becomes a class of inert ``Call`` objects, which keep
the arguments and the state they were given and do nothing. Names outside a short list are refused before that.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self


class Call:
    """A call that a file would have made, with the state it would have set; never made.

    Each known name is a subclass; the subclass itself stands for a name that is only mentioned.
    """

    name: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any) -> Self:
        call = object.__new__(cls)
        call.args, call.state, call.items = args, None, {}
        return call

    def __init__(self, *args: Any) -> None:
        """Everything was noted in ``__new__``, which one pickle instruction calls alone."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


@dataclass(frozen=True, eq=False, slots=True)
class Persistent:
    """A reference to something that is kept outside the pickle."""

    id: Any


def describe(program: bytes, known: Collection[str], refuse: Callable[[str], NoReturn]) -> Any:
    """What a pickle describes: plain values, :class:`Call` and :class:`Persistent`.

    Args:
        known: the names it may mention, ``module name``.
        refuse: raises, with the reason, at any other name.

    Raises:
        What broken pickles make the interpreter raise: UnpicklingError, ValueError, EOFError, KeyError and the like.
    """
    # The interpreter makes its table of remembered values as long as the largest number in it, which may be 2**32.
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(program):
            raise pickle.UnpicklingError("it remembers more values than it has bytes")
    return _Inert(io.BytesIO(program), known, refuse).load()


class _Inert(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, known: Collection[str], refuse: Callable[[str], NoReturn]) -> None:
        super().__init__(stream)
        self._known, self._refuse = known, refuse
        self._classes: dict[str, type[Call]] = {}

    def find_class(self, module: str, name: str) -> type[Call]:
        full = f"{module} {name}"
        if full not in self._known:
            self._refuse(f"it refers to {full}, which no weight-space file needs: refused unread")
        return self._classes.setdefault(full, type("Call", (Call,), {"name": full}))

    def persistent_load(self, reference: Any) -> Persistent:
        return Persistent(reference)
