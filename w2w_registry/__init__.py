"""A model-hub registry and asset manager for identity models.

    import w2w_registry as w2w

    with w2w.open("my-registry") as reg:
        for match in reg.search("someone.safetensors", limit=3):
            print(match.identity, match.score)

What is listed in ``__all__`` is stable. Nothing heavy loads before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from w2w_registry.version import __version__

if TYPE_CHECKING:
    from w2w_registry.interface.registry import Registry


__all__ = ["__version__", "open"]


def open(
    home: str | Path | None = None,
    *,
    database: str | None = None,
    actor: str | None = None,
    create: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Registry:
    """Open a registry; use it in a ``with`` block, or call ``close()``.

    Args:
        home: the registry's folder; None = ``W2W_HOME``, or ``~/.w2w-registry``.
        database: the catalog's URL; None = what the environment, ``registry.toml`` or the folder says.
        actor: the name recorded in the audit log; None = the login name.
        create: create the registry first if there is none.
        progress: called with (done, total) during long operations.

    Raises:
        SettingError: ``registry.toml`` cannot be used. NotInitialised: at the first use, if there is no registry.
    """
    from w2w_registry.interface.registry import Registry

    more = {} if progress is None else {"progress": progress}
    return Registry(home, database=database, actor=actor, create=create, **more)
