"""The time of events: never before the last one, and by one clock where a team has one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from w2w_registry.records import now

CLOCK_BACK, CLOCK_OFF = "clock.back", "clock.off"
CLOCK_TOLERANCE = timedelta(minutes=1)  # what clocks of one team may differ by


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


class EventClock:
    """The present, as one write transaction sees it.

    Args:
        last: when the last event was. clock: this machine's.
    """

    def __init__(self, session: Session, last: datetime | None, clock: Callable[[], datetime]) -> None:
        self.last, self._clock, self._off = last, clock, clock_off(session)

    def now(self) -> datetime:
        moment = self._clock() - self._off
        return moment if self.last is None else max(moment, self.last)

    def wrong(self) -> tuple[str, int] | None:
        """What is wrong with this machine's clock, as an event's action and its seconds: it is behind the log, or
        ahead (if negative, behind) of the database server's; None when nothing is."""
        behind = timedelta() if self.last is None else self.last - self._clock()
        if behind > CLOCK_TOLERANCE:
            return CLOCK_BACK, round(behind.total_seconds())
        return (CLOCK_OFF, round(self._off.total_seconds())) if self._off else None
