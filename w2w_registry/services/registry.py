"""Opening a registry: settings, catalog and artifact store as one value that every service takes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from w2w_registry.artifacts import ArtifactStore, sweep, temporary_folder, write_atomic
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.clock import CLOCK_LOST, begin_watch, clock_off, latest_seen
from w2w_registry.catalog.events import anything_recorded, last_moment
from w2w_registry.catalog.policies import in_force, make_policy, policy_digest
from w2w_registry.catalog.refusals import run_out
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent.rules import Rules
from w2w_registry.errors import CatalogLost, NotInitialised, RegistryError, SchemaOutOfDate, storing
from w2w_registry.records import Result, now
from w2w_registry.settings import POLICY_FILE, Settings, policy_of, read_settings_file

Later = Callable[[Hashable, int, Callable[[], object]], object]
"""Takes work that can wait: what it is (asked for again, it is done once), the catalog's change number it is for."""
Progress = Callable[[int, int], None]
"""Called with (done, total) as long work goes on."""

POLICY_SET, _RAN_OUT = "policy.set", "consent.expire"
DEFAULT_POLICY = """\
# What this registry allows. Everything here is optional; these are the defaults.

[policy]
# What an operation is for when no purpose is given.
purpose = "research"
# Kinds of identity that depict somebody even when no subject is named.
likeness_kinds = ["person"]
# What may be done with the likeness of somebody whose consent is not known: taken in and searched. What makes or
# shows new pictures of them (edit, mix, generate, export, publish) needs a consent record that grants it.
unknown = ["register", "search", "train", "invert"]
# Whether what one person says alone (whom a model depicts, that somebody agrees again) takes a second person to
# confirm. A registry of one person says false.
second_person = true
# Whether only consents count that the people themselves signed (`w2w-reg consent grant --signed`).
# signed_consents = true

# Who answers for the data, and where people withdraw: on receipts, reports and the certificates of pictures.
# [organisation]
# name = "A Studio"
# controller = "A Studio GmbH, Berlin"
# contact = "privacy@studio.example"
"""


@dataclass(frozen=True)
class Registry:
    """An open registry. Services take it as their first argument."""

    settings: Settings
    catalog: Catalog
    artifacts: ArtifactStore
    tried: set[tuple[str, str]] = field(default_factory=set, compare=False, repr=False)
    """(actor, policy digest) of the policies that were tried here and are not in force: said once while it is open."""
    later: Later | None = field(default=None, compare=False, repr=False)
    """None: nothing is put off."""

    @property
    def actor(self) -> str:
        return self.settings.actor

    def temporary_folder(self) -> AbstractContextManager[Path]:
        """An empty folder under the home that only this user may open, gone when the block ends."""
        return temporary_folder(self.settings.temporary_dir)


def present(session: Session) -> datetime:
    """The instant that decisions are made for: now (by the database server's clock, where there is one), or what is
    latest of the last event and the time the catalog was last used, when the clock is behind it. Setting the clock back
    brings no consent back to life."""
    known = [now() - clock_off(session), last_moment(session), latest_seen(session)]
    return max(moment for moment in known if moment is not None)


def note_run_out(registry: Registry, session: Session) -> None:
    """Consents whose term has ended since the last event are an event, as soon as somebody looks or anything is
    decided: from then on no clock set back makes them valid again."""
    last = None if _RAN_OUT in session.info else last_moment(session)
    session.info[_RAN_OUT] = True
    if last is None:
        return
    ended: dict[str, list[str]] = {}
    for subject, record in run_out(session, last, now() - clock_off(session)):
        ended.setdefault(subject, []).append(record)
    for subject, records in ended.items():
        registry.catalog.note_once(registry.actor, _RAN_OUT, {"subject": subject, "record": records})


def _looked(registry: Registry, session: Session) -> None:
    if registry.catalog.lost_time and last_moment(session) is not None:
        registry.catalog.note_once(registry.actor, CLOCK_LOST, {})
    note_run_out(registry, session)


def no_progress(done: int, total: int) -> None:
    """The default :data:`Progress`: says nothing."""


@contextmanager
def open_registry(settings: Settings) -> Iterator[Registry]:
    """Open an existing registry; its connections are closed at the end.

    The database is opened at its first use, which raises NotInitialised (nothing was made here yet),
    SchemaOutOfDate (made by another release) or DatabaseError (it cannot be reached).
    """
    check_not_lost(settings)
    catalog = Catalog(settings.database_url, event_hash=event_hash, looked=lambda session: _looked(registry, session))
    registry = Registry(settings, catalog, ArtifactStore(settings.artifacts_url, settings.temporary_dir))
    try:
        sweep(settings.temporary_dir)
        _adopt_while_empty(registry)
        yield registry
    finally:
        catalog.close()


@dataclass(frozen=True, eq=False)
class SchemaState(Result):
    """A catalog's schema. ``database``: its URL without the password; ``schema``: its revision, None when it has none;
    ``head``: the one this release needs."""

    database: str
    schema: str | None
    head: str


@dataclass(frozen=True)
class InitReport(SchemaState):
    """What ``init`` found or made. ``created``: whether the catalog is new."""

    home: str
    created: bool


@dataclass(frozen=True)
class UpgradeReport(SchemaState):
    """What an upgrade did. ``before``: the revision it started from."""

    before: str | None


@dataclass(frozen=True)
class SchemaCheck(SchemaState):
    """``differences`` between the database and what this release needs; none when it is right."""

    differences: tuple[str, ...]


def init_registry(settings: Settings) -> InitReport:
    """Make the home folder, the catalog at the newest schema and registry.toml; on an existing registry, nothing.

    Raises:
        CatalogLost: the home holds files of a registry whose catalog is gone.
    """
    check_not_lost(settings)
    before = _current(settings)  # a database that cannot be reached leaves no folder behind
    with storing(settings.home):
        settings.home.mkdir(parents=True, exist_ok=True)
        policy = settings.home / POLICY_FILE
        if not policy.exists():
            write_atomic(policy, DEFAULT_POLICY.encode())
    if before is None:
        schema.upgrade(settings.database_url)
        _adopt_first_policy(settings)
    state = vars(current_schema(settings))
    return InitReport(**state, home=str(settings.home), created=before is None)


def check_not_lost(settings: Settings) -> None:
    """Refuse a SQLite catalog that is empty or gone while the home folder holds its files: a new one in its place
    would hide the loss.

    Raises:
        CatalogLost.
    """
    database = Path(settings.database_url.removeprefix("sqlite:///")).expanduser()
    if not settings.database_url.startswith("sqlite:///") or database.parent != settings.home:
        return
    try:
        if database.stat().st_size > 0 or not database.is_file():  # what is no file, opening it says
            return
    except OSError:
        pass
    wal = database.with_name(f"{database.name}-wal")
    if wal.exists() and wal.stat().st_size > 0:
        return  # written, and not yet folded into the file
    kept = next((settings.home / "artifacts").glob("??/" + "?" * 64), None)
    if kept is not None:
        raise CatalogLost(path=str(database), artifacts=str(settings.home / "artifacts"))


def upgrade_schema(settings: Settings) -> UpgradeReport:
    """Bring an existing catalog to this release's schema.

    Raises:
        CatalogLost, SchemaOutOfDate: there is none to bring.
    """
    before = current_schema(settings).schema
    if before is None:
        raise SchemaOutOfDate(current=None, head=schema.head())
    if before != schema.head():
        begin_watch(settings.database_url)  # releases before it kept none
    schema.upgrade(settings.database_url)
    _adopt_first_policy(settings)
    return UpgradeReport(**vars(current_schema(settings)), before=before)


def _adopt_while_empty(registry: Registry) -> None:
    """Until anything is recorded, the policy written down beside a catalog is the one in force: whoever makes a
    registry may edit registry.toml first. From the first record on only a command changes it."""
    settings, rules = registry.settings, registry.settings.policy
    if not rules or not settings.database_url.startswith(f"sqlite:///{settings.home}/"):
        return
    with suppress(RegistryError):  # what is wrong with the database is said when it is first used
        Rules.from_settings(rules)
        with registry.catalog.read() as session:
            found = in_force(session)
            if found is None or found.digest == policy_digest(rules) or anything_recorded(session):
                return
        with registry.catalog.write(registry.actor) as uow:
            if not anything_recorded(uow.session):
                row = uow.add(make_policy(rules, uow.now()))
                uow.event(POLICY_SET, {"policy": row.id}, digest=row.digest, before=found.digest)


def _adopt_first_policy(settings: Settings) -> None:
    """A catalog without a policy takes the one written down beside it; from then on only a command changes it."""
    rules = policy_of(read_settings_file(settings.home / POLICY_FILE))
    Rules.from_settings(rules)
    with open_registry(settings) as registry, registry.catalog.write(registry.actor) as uow:
        if in_force(uow.session) is None:
            row = uow.add(make_policy(rules, uow.now()))
            uow.event(POLICY_SET, {"policy": row.id}, digest=row.digest, before=None)


def current_schema(settings: Settings) -> SchemaState:
    """The schema's revision, and the one this release needs.

    Raises:
        CatalogLost.
    """
    check_not_lost(settings)
    name = Catalog(settings.database_url, event_hash=event_hash).name
    return SchemaState(name, _current(settings), schema.head())


def check_schema(settings: Settings) -> SchemaCheck:
    """Hold the database against what this release needs."""
    found = tuple(schema.check(settings.database_url))
    return SchemaCheck(**vars(current_schema(settings)), differences=found)


def _current(settings: Settings) -> str | None:
    try:
        return schema.current(settings.database_url)
    except NotInitialised:
        return None
