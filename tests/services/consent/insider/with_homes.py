"""What an insider does with the registry as a whole: backups, copies, another home folder."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.services.consent.insider.play import Insider, move
from tests.services.consent.insider.with_registered import taken_out
from w2w_registry.errors import RegistryError
from w2w_registry.services.identities.ingest import add
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.recording.backups import backup, copy_to, restore
from w2w_registry.services.recording.unused import gc
from w2w_registry.services.registry import open_registry
from w2w_registry.settings import Settings, load_settings


@move("backup", "restore", weight=0.3)
def restored(insider: Insider) -> None:
    """From a backup into another folder, with the policy file of somebody else."""
    file = insider.folder / f"{insider.fresh('backup')}.tar"
    backup(insider.registry, file)
    home = insider.folder / insider.fresh("home")
    restore(load_settings(str(home), actor="insider"), file)
    if insider.rng.random() < 0.5:
        (home / "keys" / "door.key").unlink(missing_ok=True)
    _at_work(insider, load_settings(str(home), actor="insider"), home)
    file.unlink()


@move("copy-to", "init", weight=0.3)
def copied(insider: Insider) -> None:
    """The catalog in another database, opened from an empty home folder beside the same files."""
    home = insider.folder / insider.fresh("home")
    home.mkdir()
    url = f"sqlite:///{home}/catalog.db"
    copy_to(insider.registry, url)
    (home / "registry.toml").write_text("[policy]\nlikeness_kinds = []\nsecond_person = false\nspace_people = 2\n")
    settings = replace(load_settings(str(home), actor="insider"), artifacts_url=insider.registry.settings.artifacts_url)
    _at_work(insider, settings, home)


def _at_work(insider: Insider, settings: Settings, home: Path) -> None:
    """Bring in and take out what comes to mind; then the copy goes."""
    try:
        with open_registry(settings) as registry:
            for _ in range(3):
                path, what = insider.file()
                name = insider.fresh("y")
                try:
                    (item,) = add(registry, AddRequest([str(path)], name=name, kind="style", space="faces")).items
                    if item.error is None:
                        insider.came_in(name, what)
                        taken_out(insider, registry, name)
                except RegistryError:
                    pass
                with suppress(RegistryError):
                    taken_out(insider, registry, insider.name())
    finally:
        shutil.rmtree(home, ignore_errors=True)


@move("gc", weight=0.1)
def collected(insider: Insider) -> None:
    gc(insider.registry, perform=True, grace=0)
