"""The options that a method hands on to its service, checked by name before anything is done."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from w2w_registry.errors import UsageError


def checked(
    method: str, takes: Callable[..., Any], options: Mapping[str, Any], *, own: Collection[str] = ()
) -> dict[str, Any]:
    """``options``, each of which ``takes`` has a parameter for.

    Args:
        method: what the caller called. own: parameters that the method fills itself.

    Raises:
        UsageError: an option that does not exist, with those that do.
    """
    known = [name for name in inspect.signature(takes).parameters if name not in {"registry", "progress", *own}]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"
            raise UsageError(reason=f"{method}() has no option {name!r}", hint=hint)
    return dict(options)
