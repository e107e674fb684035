"""The time of events: never before the last one, and by one clock where a team has one; and the latest time at which
a catalog in a file was used."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from sqlalchemy import URL, func, select
from sqlalchemy.orm import Session

from w2w_registry.catalog.engine import parse_url
from w2w_registry.errors import BadFile
from w2w_registry.files import read_text
from w2w_registry.records import iso, now

CLOCK_BACK, CLOCK_OFF, CLOCK_LOST, SEEN = "clock.back", "clock.off", "clock.lost", "latest seen"
_BOOT, _UPTIME = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/uptime")
CLOCK_TOLERANCE = timedelta(minutes=1)  # what clocks of one team may differ by
WATCH_EVERY = timedelta(seconds=10)
_LINE = 1000  # bytes that what is kept beside a catalog never has


def clock_off(session: Session) -> timedelta:
    """How far this machine's clock is ahead of the database server's: none within the tolerance, or where the database
    is a file, which has no clock but the machine's. Asked once a session.

    The server's clock decides where they differ, so that nobody's environment does.
    """
    off: timedelta | None = session.info.get(CLOCK_OFF)
    if off is None:
        off = timedelta()
        if session.connection().dialect.name == "postgresql":
            off = now() - session.execute(select(func.clock_timestamp())).scalar_one()
        off = off if abs(off) > CLOCK_TOLERANCE else timedelta()
        session.info[CLOCK_OFF] = off
    return off


class Watch:
    """The latest time at which a SQLite catalog was used, kept beside it (``catalog.db-seen``).

    Reading records no event, and neither does time that passes. So whoever opens it, if only to read, leaves the time
    here, and how long the machine has been running; what it has been running since has passed as well, whatever its
    clock says. A server's database needs none of it: its clock decides.

    A catalog with events whose file is not there, or was not written here, has ``lost`` it: that is an event, and only
    once it is on record is the file made again (``begin``), so that whoever takes it away or types another time into it
    leaves a trace. The sum at the line's end is no secret: it stops hands, not programs. What stops those is the log,
    whose last event and signed checkpoints are never before what decisions are made for.
    """

    def __init__(self, url: URL, clock: Callable[[], datetime]) -> None:
        self._path = Path(f"{url.database}-seen") if url.get_backend_name() == "sqlite" else None
        self._clock = clock
        self._known: tuple[datetime, str, float] | None = None
        self._read = False

    @property
    def lost(self) -> bool:
        """Whether nothing beside the catalog says when it was last used."""
        if self._path is None:
            return False
        if not self._read:
            self._known, self._read = self._kept(), True
        return self._known is None

    def begin(self) -> None:
        """Keep the time from now on."""
        if self.lost:
            self._keep(self._clock(), *_running())

    def look(self) -> datetime | None:
        """The latest instant known of: the clock's, or a later one at which the catalog was used or that has passed
        since then. None where a server's clock decides. A folder that cannot be written keeps what it has."""
        if self._path is None:
            return None
        if self.lost or self._known is None:
            return self._clock()
        boot, running = _running()
        known = self._known
        passed = running - known[2] if boot == known[1] != "" else 0.0
        latest = max(self._clock(), known[0] + timedelta(seconds=max(passed, 0.0)))
        if latest - known[0] >= WATCH_EVERY:
            self._keep(latest, boot, running)
        return latest

    def _keep(self, latest: datetime, boot: str, running: float) -> None:
        assert self._path is not None
        self._known = latest, boot, running
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            said = f"{iso(latest)} {boot or '-'} {running:.2f}"
            partial.write_text(f"{said} {_sum_of(said)}\n", "ascii")
            partial.replace(self._path)

    def _kept(self) -> tuple[datetime, str, float] | None:
        assert self._path is not None
        with suppress(BadFile, ValueError):
            said, _, checked = read_text(self._path, limit=_LINE).strip().rpartition(" ")
            at, boot, running = said.split()
            if checked != _sum_of(said):
                return None
            moment, seconds = datetime.fromisoformat(at).astimezone(UTC), float(running)
            return (moment, boot, seconds) if moment.year < 9000 and 0 <= seconds < 1e10 else None
        return None


def begin_watch(url: str) -> None:
    """Keep the latest time of use beside a catalog that was restored, copied or upgraded, and so has none yet."""
    Watch(parse_url(url), now).begin()


def _sum_of(said: str) -> str:
    return sha256(f"w2w-registry latest use {said}".encode()).hexdigest()[:16]


def _running() -> tuple[str, float]:
    """Which start of the machine this is, and how many seconds it has been running, asleep or not: ("", 0.0) where the
    system does not say (it does on Linux)."""
    try:
        return _BOOT.read_text("ascii").strip(), float(_UPTIME.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return "", 0.0


def latest_seen(session: Session) -> datetime | None:
    """What ``Watch`` knew when the session was opened."""
    found: datetime | None = session.info.get(SEEN)
    return found


class EventClock:
    """The present, as one write transaction sees it.

    Args:
        last: when the last event was. clock: this machine's.
    """

    def __init__(self, session: Session, last: datetime | None, clock: Callable[[], datetime]) -> None:
        self.last, self._clock, self._off, self._seen = last, clock, clock_off(session), latest_seen(session)

    def now(self) -> datetime:
        moment = self._clock() - self._off
        return moment if self.last is None else max(moment, self.last)

    def wrong(self) -> tuple[str, int] | None:
        """What is wrong with this machine's clock, as an event's action and its seconds: it is behind the log,
        or the latest time at which the catalog was used; or ahead (if negative, behind) of the database server's; None
        when nothing is."""
        known = [moment for moment in (self.last, self._seen) if moment is not None]
        behind = max(known) - self._clock() if known else timedelta()
        if behind > CLOCK_TOLERANCE:
            return CLOCK_BACK, round(behind.total_seconds())
        return (CLOCK_OFF, round(self._off.total_seconds())) if self._off else None
