"""Cycles are looked for seldom while many rows are made, and as before afterwards."""

import gc
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from w2w_registry.services.recording.garbage import seldom_collected


def test_as_before_afterwards_also_after_an_error() -> None:
    before, inside = gc.get_threshold(), []

    @seldom_collected()
    def fail() -> None:
        inside.append(gc.get_threshold()[0])
        raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        fail()
    assert inside[0] > before[0]
    assert gc.get_threshold() == before


def test_blocks_of_several_threads_that_overlap_leave_it_as_it_was() -> None:
    before, together = gc.get_threshold(), Barrier(2)

    def one(first: bool) -> int:
        with seldom_collected():
            together.wait()
            if first:
                return 0
            together.wait()
            return gc.get_threshold()[0]

    with ThreadPoolExecutor(2) as pool:
        leaves, stays = pool.submit(one, True), pool.submit(one, False)
        leaves.result()
        together.wait()
        assert stays.result() > before[0]
    assert gc.get_threshold() == before
