"""What the base model is needed for, pictures above all: one worker, because the base model is one. A newer wish pushes
older ones out."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from w2w_registry.errors import RegistryError
from w2w_registry.web.problems import Problem, problem_of

KEPT: Final = 400
WAITING: Final = 64
_LOG = logging.getLogger("w2w_registry.web")


class State(StrEnum):
    """Where a job stands. The last three stay."""

    WAITING = "waiting"
    DRAWING = "drawing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})


@dataclass(eq=False)
class Job:
    """One picture. ``owner``: the session that asked; ``picture``: PNG when done; ``why``: what to say when not, and
    ``error`` what a service raised."""

    id: str
    owner: str
    key: Hashable
    draw: Callable[[], bytes]
    lane: str
    state: State = State.WAITING
    picture: bytes | None = None
    why: str = ""
    error: RegistryError | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Queue:
    """Jobs in the order they came, drawn one after another by one thread that starts with the first."""

    def __init__(self, *, kept: int = KEPT, waiting: int = WAITING) -> None:
        self._kept, self._most = kept, waiting
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._line: list[Job] = []
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None

    def submit(self, owner: str, key: Hashable, draw: Callable[[], bytes], *, lane: str = "") -> Job:
        """A job for this picture: one that was drawn for this owner before, or a new one at the end of the line.

        Args:
            lane: an older job of the same owner and lane that still waits is cancelled: its slider moved on.

        Raises:
            Problem: too many wait already.
        """
        with self._changed:
            known = next((j for j in self._jobs.values() if j.owner == owner and j.key == key and j.picture), None)
            if known is not None:
                self._jobs.move_to_end(known.id)
                return known
            for job in [j for j in self._line if (j.owner, j.lane) == (owner, lane)]:
                self._end(job, State.CANCELLED, "a newer picture was asked for")
            if len(self._line) >= self._most:
                raise Problem(503, "busy", "too many pictures are waiting to be drawn", {"retry-after": "10"})
            job = Job(secrets.token_urlsafe(18), owner, key, draw, lane)
            self._jobs[job.id] = job
            self._line.append(job)
            self._forget()
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, name="w2w-pictures", daemon=True)
                self._worker.start()
            self._changed.notify_all()
            return job

    def find(self, owner: str, job_id: str) -> Job:
        """A job of this owner.

        Raises:
            Problem: there is none; somebody else's is not shown either.
        """
        with self._changed:
            job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise Problem(404, "not-found", "that picture is not here any more")
        return job

    def cancel(self, job: Job) -> None:
        """Take a waiting job out of the line; one being drawn is drawn to its end and not shown."""
        with self._changed:
            if job.state not in ENDED:
                self._end(job, State.CANCELLED, "cancelled")

    def forget(self, job: Job) -> None:
        """Keep nothing of a job; one that waits still is cancelled."""
        self.cancel(job)
        with self._changed:
            self._jobs.pop(job.id, None)

    def ahead(self, job: Job) -> int:
        """How many come first."""
        with self._changed:
            return self._line.index(job) if job in self._line else 0

    def wait(self, job: Job, before: State, timeout: float) -> State:
        """The job's state once it is another than ``before``, or after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: job.state is not before, timeout)
            return job.state

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._line), timeout=60):
                    self._worker = None
                    return
                job = self._line.pop(0)
                job.state = State.DRAWING
                self._changed.notify_all()
            try:
                picture, why = job.draw(), ""
            except RegistryError as error:
                picture, why, job.error = None, problem_of(error).detail, error
            except Exception:  # the worker goes on; what happened is in the log
                _LOG.exception("a picture could not be drawn")
                picture, why = None, "something went wrong here; the server's log says what"
            with self._changed:
                if job.state is State.DRAWING:
                    job.picture = picture
                    self._end(job, State.DONE if picture is not None else State.FAILED, why)

    def _end(self, job: Job, state: State, why: str) -> None:
        if job in self._line:
            self._line.remove(job)
        job.state, job.why = state, why
        job.ended.set()
        self._changed.notify_all()

    def _forget(self) -> None:
        for job in list(self._jobs.values()):
            if len(self._jobs) <= self._kept:
                return
            if job.state in ENDED:
                del self._jobs[job.id]
