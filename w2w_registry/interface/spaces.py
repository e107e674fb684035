"""Weight spaces through the Python API: ``reg.spaces.fit("faces", "loras/", base_model="…")``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from w2w_registry.interface.results import Row, Rows, checked, plain
from w2w_registry.services.registry import Progress
from w2w_registry.services.registry import Registry as OpenRegistry


class Spaces:
    """The weight spaces of a registry."""

    def __init__(self, registry: OpenRegistry, progress: Progress) -> None:
        self._registry, self._progress = registry, progress

    def fit(self, name: str, *paths: str | Path, base_model: str, **options: Any) -> Row:
        """Fit the next version of space ``name`` on LoRA files or folders, and register it.

        Args:
            options: ``revision``, ``components``, ``repeats``, as for ``w2w-reg space fit``.

        Raises:
            BadLora, UsageError: no usable fit set. BadName.
        """
        from w2w_registry.services.spaces import manage

        options = checked("fit", manage.fit_space, options, own=["name", "paths", "base_model"])
        files = [str(path) for path in paths]
        found = manage.fit_space(self._registry, name, files, base_model=base_model, progress=self._progress, **options)
        return Row(plain(found))

    def import_(self, name: str, path: str | Path, **options: Any) -> Row:
        """Register a space from an exported folder, the public weights2weights release, or ``hf://owner/repo``.

        Args:
            options: ``components``, ``base_model``, ``identities``, as for ``w2w-reg space import``.
        """
        from w2w_registry.services.hub.resolving import space_folder
        from w2w_registry.services.spaces import manage

        options = checked("import_", manage.import_space, options, own=["name", "path", "origin"])
        with space_folder(self._registry, str(path), self._progress) as (folder, origin):
            found = manage.import_space(self._registry, name, folder, origin=origin, progress=self._progress, **options)
        return Row(plain(found))

    def export(self, name: str, out: str | Path) -> Row:
        """Write a space as safetensors and JSON into the folder ``out``."""
        from w2w_registry.services.spaces import manage

        return Row(plain(manage.export_space(self._registry, name, str(out))))

    def list(self) -> Rows:
        """Every space, with how many identities have coordinates in it."""
        from w2w_registry.services.spaces import showing

        return Rows(plain(showing.list_spaces(self._registry)))

    def show(self, name: str) -> Row:
        """One space: what it was fitted on, explained variance, metric, calibration."""
        from w2w_registry.services.spaces import showing

        return Row(plain(showing.show_space(self._registry, name)))
