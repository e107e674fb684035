"""One worker draws one picture after another; what was superseded or given up is not drawn."""

from __future__ import annotations

import threading

import pytest

from w2w_registry.errors import ConsentDenied
from w2w_registry.web.jobs import ENDED, Job, Queue, State
from w2w_registry.web.problems import Problem


def finish(job: Job) -> State:
    assert job.ended.wait(20)
    return job.state


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def queue(gate: threading.Event) -> Queue:
    """A queue whose worker is busy until the gate opens."""
    made = Queue(waiting=3)
    busy = made.submit("a", "first", lambda: (gate.wait(20) and b"first") or b"", lane="before")
    assert made.wait(busy, State.WAITING, 20) is State.DRAWING
    return made


def test_in_the_order_they_came_one_at_a_time(queue: Queue, gate: threading.Event) -> None:
    drawn: list[str] = []
    jobs = [queue.submit(who, who, lambda who=who: drawn.append(who) or who.encode()) for who in "abc"]  # type: ignore[misc]
    assert [queue.ahead(job) for job in jobs] == [0, 1, 2]
    with pytest.raises(Problem):
        queue.submit("d", "d", lambda: b"")
    gate.set()
    assert [finish(job) for job in jobs] == [State.DONE] * 3
    assert drawn == ["a", "b", "c"]
    assert [job.picture for job in jobs] == [b"a", b"b", b"c"]


def test_a_slider_that_moved_on_takes_its_older_picture_along(queue: Queue, gate: threading.Event) -> None:
    old = queue.submit("a", 1, lambda: b"old", lane="after")
    other = queue.submit("b", 1, lambda: b"other", lane="after")
    new = queue.submit("a", 2, lambda: b"new", lane="after")
    assert old.state is State.CANCELLED
    gate.set()
    assert finish(new) is finish(other) is State.DONE
    assert old.picture is None


def test_the_same_picture_is_drawn_once_and_for_its_owner_only(queue: Queue, gate: threading.Event) -> None:
    gate.set()
    job = queue.submit("a", 1, lambda: b"x")
    finish(job)
    assert queue.submit("a", 1, lambda: b"y") is job
    assert queue.submit("b", 1, lambda: b"y") is not job
    assert queue.find("a", job.id) is job
    for owner, name in (("b", job.id), ("a", "nothing")):
        with pytest.raises(Problem):
            queue.find(owner, name)


def test_what_fails_says_why_and_the_worker_goes_on(queue: Queue, gate: threading.Event) -> None:
    def refused() -> bytes:
        raise ConsentDenied(operation="generate", purpose="research", reasons=("s-1 said no",), subjects=("s-1",))

    def broken() -> bytes:
        raise RuntimeError("/secret/place")

    gate.set()
    jobs = [queue.submit("a", i, draw, lane=str(i)) for i, draw in enumerate((refused, broken, lambda: b"fine"))]
    assert [finish(job) for job in jobs] == [State.FAILED, State.FAILED, State.DONE]
    assert "s-1 said no" in jobs[0].why
    assert "secret" not in jobs[1].why


def test_given_up(queue: Queue, gate: threading.Event) -> None:
    waiting = queue.submit("a", 1, lambda: b"x")
    queue.cancel(waiting)
    gate.set()
    assert waiting.state in ENDED
    assert waiting.picture is None
