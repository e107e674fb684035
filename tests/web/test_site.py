"""What is worked out from the catalog: once, again when the catalog has changed, and never in everybody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from w2w_registry.web.site import Remembered, _Kept


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def settled(remembered: Remembered, seq: int) -> bool:
    """Whether what is worked out beside an answer came to be of ``seq``, in some seconds."""
    for _ in range(500):
        if remembered.current("key", seq):
            return True
        time.sleep(0.01)
    return False


def busy(value: int, seconds: float = 0.02) -> Callable[[], int]:
    """Work that takes a thread so long."""

    def make() -> int:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass
        return value

    return make


def test_what_is_quick_is_always_of_now() -> None:
    remembered = Remembered(quick=60.0)
    assert [remembered.get("key", seq, lambda seq=seq: seq) for seq in (1, 1, 2, 3)] == [1, 1, 2, 3]  # type: ignore[misc]


def test_what_takes_long_is_worked_out_beside_the_answer_and_not_for_every_change() -> None:
    clock = Clock()
    remembered = Remembered(quick=0.001, rarely=100.0, clock=clock)
    assert remembered.get("key", 1, busy(1)) == 1
    for seq in range(2, 20):
        assert remembered.get("key", seq, lambda: pytest.fail("too soon")) == 1
    assert not remembered.current("key", 19)
    clock.now = 1e6
    assert remembered.get("key", 20, busy(20)) == 1
    assert settled(remembered, 20)
    assert remembered.get("key", 20, lambda: pytest.fail("known")) == 20


def test_what_takes_long_takes_turns_however_much_there_is_of_it() -> None:
    """Ten things that changed are worked out one at a time, in the order they were asked for, resting in between."""
    rests, made, under_way = [], [], threading.Semaphore(1)
    remembered = Remembered(quick=0.001, rarely=3.0, longest=0.5, clock=lambda: float("inf"), rest=rests.append)

    def make(key: int) -> Callable[[], int]:
        def work() -> int:
            assert under_way.acquire(blocking=False)
            made.append(key)
            busy(0)()
            under_way.release()
            return key

        return work

    for key in range(10):
        remembered._kept[key] = _Kept(1, 1.0, key, 0.0)  # each took a second before
    for _ in range(3):  # asked again, each keeps its place
        assert [remembered.get(key, 2, make(key)) for key in range(10)] == list(range(10))
    while len(rests) < len(made) or len(set(made)) < 10:
        time.sleep(0.01)
    assert list(dict.fromkeys(made)) == list(range(10))
    assert all(0.0 < one <= 0.5 for one in rests)


def test_what_nobody_knows_yet_is_worked_out_by_one() -> None:
    remembered, made, begin = Remembered(), [], threading.Barrier(6)

    def make() -> int:
        made.append(1)
        time.sleep(0.05)
        return 7

    def ask(_: int) -> int:
        begin.wait(10)
        return remembered.get("key", 1, make)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [7] * 6
    assert len(made) == 1


def test_what_fails_is_tried_again() -> None:
    remembered = Remembered()
    with pytest.raises(ValueError, match="no"):
        remembered.get("key", 1, lambda: (_ for _ in ()).throw(ValueError("no")))
    assert remembered.get("key", 1, lambda: 3) == 3
