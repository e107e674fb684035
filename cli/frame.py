"""What every command shares: the options before its name, ``--json``, and the one way to an open registry."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import loudness

if TYPE_CHECKING:
    from w2w_registry.services.registry import Registry
    from w2w_registry.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Frame:
    """What the options before (or after) the command's name say; carried as ``ctx.obj``."""

    home: str | None = None
    database: str | None = None
    actor: str | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    log_file: str | None = None
    _registry: Registry | None = field(default=None, repr=False)

    def settings(self) -> Settings:
        from w2w_registry.settings import load_settings

        return load_settings(self.home, self.database, actor=self.actor)

    def registry(self) -> Registry:
        """The registry, opened at the first call and closed when the command ends."""
        if self._registry is None:
            from w2w_registry.services.registry import open_registry

            root = click.get_current_context().find_root()
            self._registry = root.with_resource(open_registry(self.settings()))
        return self._registry


def _into_frame(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    if value not in (None, False):
        frame = ctx.find_root().obj
        setattr(frame, str(param.name), value)
        if param.name in ("quiet", "verbose", "log_file"):
            loudness.set_up(quiet=frame.quiet, verbose=frame.verbose, log_file=frame.log_file)
    return value


def takes_frame(function: F) -> F:
    """Pass the :class:`Frame` as the command's first argument, and take the options every command takes:
    ``--json``, and ``--home``, ``--database`` and ``--actor`` also after the command's name."""

    @click.pass_context
    @functools.wraps(function)
    def inner(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        return ctx.invoke(function, ctx.find_root().obj, *args, **kwargs)

    command: Any = inner
    for option in (
        click.option("--json", is_flag=True, expose_value=False, callback=_into_frame, help="Print JSON."),
        click.option("--actor", metavar="WHO", expose_value=False, callback=_into_frame, hidden=True),
        click.option("--database", metavar="URL", expose_value=False, callback=_into_frame, hidden=True),
        click.option("--home", type=click.Path(), expose_value=False, callback=_into_frame, hidden=True),
        click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_into_frame, hidden=True),
        click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_into_frame, hidden=True),
        click.option("--log-file", type=click.Path(), expose_value=False, callback=_into_frame, hidden=True),
    ):
        command = option(command)
    return command  # type: ignore[no-any-return]
