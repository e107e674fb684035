"""Which weights no training leaves: noise and mixtures are told from people outside the fit, who are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from w2w_registry.space.crossfit import cross_fit
from w2w_registry.space.metrics import default_metric
from w2w_registry.space.ordinary import UNUSUAL, Ordinary, energies

Array = NDArray[np.float64]
WIDTH, PEOPLE, OUTSIDE = 900, 240, 400


class Fitted:
    """People as LoRAs differ: a little in common, and a part of each one's own that no fit of the others reaches."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        spread = np.arange(1, WIDTH + 1) ** -0.4
        members, self.strangers = (rng.normal(size=(n, WIDTH)) * spread for n in (PEOPLE, OUTSIDE))
        self.mean = members.mean(0)
        _, length, axes = np.linalg.svd(members - self.mean, full_matrices=False)
        self.axes = axes[: PEOPLE - 1]
        self.std = length[: PEOPLE - 1] / np.sqrt(PEOPLE - 1)
        self.normal = cross_fit(members @ members.T, PEOPLE - 1, default_metric).ordinary
        self.members, self.rng = members, rng

    def unusual(self, rows: Array) -> float:
        """The share of rows (n, WIDTH) that no training leaves."""
        points = (rows - self.mean) @ self.axes.T
        outside = ((rows - self.mean) ** 2).sum(1) - (points**2).sum(1)
        return float(self.normal.unusual(energies(points, self.std, outside)).mean())

    def noise(self, share: float) -> Array:
        return (share * self.rng.normal(size=(OUTSIDE, PEOPLE - 1)) * self.std) @ self.axes


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return Fitted()


def test_people_outside_the_fit_are_ordinary(fitted: Fitted) -> None:
    assert fitted.unusual(fitted.strangers) < 2 * UNUSUAL


def test_noise_and_mixtures_are_not(fitted: Fitted) -> None:
    assert fitted.unusual(fitted.strangers + fitted.noise(0.75)) > 0.9
    assert fitted.unusual(0.7 * fitted.strangers + 0.3 * fitted.strangers[::-1]) > 0.9
    white = fitted.strangers.std() * fitted.rng.normal(size=fitted.strangers.shape)
    assert fitted.unusual(fitted.strangers + white) > 0.9


def test_what_lies_in_the_span_alone_is_not(fitted: Fitted) -> None:
    inside = fitted.mean + ((fitted.strangers - fitted.mean) @ fitted.axes.T) @ fitted.axes
    assert fitted.unusual(inside) == 1.0


def test_what_was_learned_is_kept_as_json(fitted: Fitted) -> None:
    again = Ordinary.from_json(json.loads(json.dumps(fitted.normal.to_json())))
    found = fitted.rng.normal(size=(50, 3)) * 0.3 + fitted.normal.mean
    assert (again.unusual(found) == fitted.normal.unusual(found)).all()


def test_it_is_not_used_of_a_space_that_has_grown(fitted: Fitted) -> None:
    assert fitted.normal.holds_for(PEOPLE + 10)
    assert not fitted.normal.holds_for(2 * PEOPLE)
