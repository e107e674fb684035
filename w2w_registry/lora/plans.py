"""Where in a file each number of an adapter lies, worked out once for all files of one header and one set of settings.

Which layer a tensor changes, in which role and at which scale, depends on the header, the settings and the few values
that are alphas. Files of one training agree in all of these: of the second on only the numbers are new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora.change import Change
from w2w_registry.lora.config import Settings
from w2w_registry.lora.formats import Key
from w2w_registry.lora.header import Shape
from w2w_registry.lora.tensorfile import TensorData

Values = NDArray[np.float32]

_MOST_PLANS = 16
_MOST_VALUES = 1 << 16  # bytes of alphas worth comparing
_SAID_BY_VALUE = ("alpha", "scalar")
"""Roles whose values decide what the other tensors mean (``assemble``)."""


@dataclass(frozen=True)
class Place:
    """A tensor's numbers among all of a file's."""

    start: int
    stop: int
    shape: tuple[int, ...]

    def of(self, values: Values) -> Values:
        return values[self.start : self.stop].reshape(self.shape)


def place_of(array: Values, values: Values) -> Place | None:
    """Where ``array`` lies among ``values``; None where it is not one contiguous stretch of them."""
    at = array.__array_interface__["data"][0] - values.__array_interface__["data"][0]
    start, rest = divmod(at, values.itemsize)
    plain = array.size > 0 and array.dtype == values.dtype and array.flags.c_contiguous and rest == 0
    if not plain or start < 0 or start + array.size > values.size:
        return None
    return Place(start, start + array.size, array.shape)


@dataclass(frozen=True, eq=False)
class Plan:
    """What an adapter's header, settings and alphas say: everything but its numbers.

    ``tables`` and ``settings`` by part. ``pattern``: its changes, of which each file fills in the tensors at ``places``
    (by role); None where they are not plain stretches of the file. ``alpha_source``: ``settings``, ``tensor`` or
    ``default``.
    """

    tables: Mapping[str, dict[str, Any]]
    settings: Mapping[str, Settings]
    pattern: tuple[Change, ...]
    places: tuple[tuple[tuple[str, Place], ...], ...] | None
    remarks: tuple[str, ...]
    alpha_source: str

    def changes(self, values: Values) -> tuple[Change, ...]:
        """The changes of a file with these values."""
        assert self.places is not None
        return tuple(
            _with_tensors(one, MappingProxyType({role: place.of(values) for role, place in places}))
            for one, places in zip(self.pattern, self.places, strict=True)
        )


def _with_tensors(pattern: Change, tensors: Mapping[str, Values]) -> Change:
    """A change with other tensors: as ``replace`` makes one, in a tenth of its time. A file has hundreds."""
    change = object.__new__(Change)
    vars(change).update(vars(pattern), tensors=tensors)
    return change


@dataclass(frozen=True, eq=False)
class Spelling:
    """What the names and shapes of a file's tensors say: ``keys`` by name, the ``form`` most are spelt in, what is
    ``unread``, the ``dtype`` on disk (``mixed`` when several)."""

    keys: Mapping[str, Key]
    form: str
    unread: tuple[str, ...]
    dtype: str
    plans: dict[Any, Plan] = field(default_factory=dict)

    def key(self, data: TensorData, settings: tuple[str | None, ...]) -> tuple[Any, ...] | None:
        """What a plan depends on besides the header: settings, as texts, and alphas. None where that is too much."""
        names = [name for name, key in self.keys.items() if key.role in _SAID_BY_VALUE]
        parts = [data.values[data.header.shape.places[name]] for name in names]
        if sum(part.nbytes for part in parts) > _MOST_VALUES:
            return None
        return (*settings, b"".join(part.tobytes() for part in parts))

    def remember(self, key: tuple[Any, ...] | None, plan: Plan) -> None:
        if key is not None and plan.places is not None:
            if len(self.plans) >= _MOST_PLANS:
                self.plans.clear()
            self.plans[key] = plan


SPELLINGS: WeakKeyDictionary[Shape, Spelling] = WeakKeyDictionary()
"""By the shape they are of, for as long as that is remembered (``header``)."""


def pattern_of(
    changes: Sequence[Change], values: Values
) -> tuple[tuple[Change, ...], tuple[tuple[tuple[str, Place], ...], ...] | None]:
    """Changes without their numbers, and where those lie."""
    places: list[tuple[tuple[str, Place], ...]] = []
    for change in changes:
        found = [(role, place_of(array, values)) for role, array in change.tensors.items()]
        known = tuple((role, place) for role, place in found if place is not None)
        if len(known) < len(found):
            return (), None
        places.append(known)
    bare = tuple(
        Change(c.part, c.module, c.kind, MappingProxyType({}), c.alpha, c.scale, c.rank, c.rows, c.name)
        for c in changes
    )
    return bare, tuple(places)
