from __future__ import annotations

import numpy as np
import pytest

from examples.miniworld.evaluation import edits
from examples.miniworld.evaluation.assets import consistencies, identity_scores
from examples.miniworld.evaluation.report import Row, exact, table
from examples.miniworld.readers import SPREAD
from examples.miniworld.world import ATTRIBUTES, sample_attributes
from w2w_registry.space.intervals import Estimate


def test_identity_score_is_one_for_the_same_and_about_zero_for_strangers() -> None:
    truth = sample_attributes(200, 1)
    same = np.repeat(truth[:, None], 3, axis=1)
    np.testing.assert_allclose(identity_scores(same, same), 1.0, atol=1e-5)
    strangers = identity_scores(same, np.roll(same, 1, axis=0))
    assert abs(strangers.mean()) < 0.1
    np.testing.assert_allclose(consistencies(same), 1.0, atol=1e-5)


def test_movement_leaves_out_the_edited_attribute() -> None:
    before = np.zeros((2, 3, len(ATTRIBUTES)), np.float32)
    after = before.copy()
    hat, skin = ATTRIBUTES.index("hat"), ATTRIBUTES.index("skin")
    after[..., hat] = 1.0
    np.testing.assert_allclose(edits.moved(before, after, hat), 0.0)
    after[:, 0, skin], after[:, 1, skin] = SPREAD[skin], -SPREAD[skin]
    np.testing.assert_allclose(edits.moved(before, after, hat), 2 / 3 / (len(ATTRIBUTES) - 1), rtol=1e-5)
    np.testing.assert_array_equal(edits.flipped(after, hat, [True, False]), [1.0, 0.0])


@pytest.mark.parametrize(("value", "above", "holds"), [(0.5, True, False), (0.5, False, True), (0.9, True, True)])
def test_targets_are_floors_or_ceilings(value: float, above: bool, holds: bool) -> None:
    row = Row("x", "something", Estimate(value, value - 0.1, value + 0.1, 7), 0.8, above)
    assert row.holds is holds
    text = table([row, Row("x", "other", exact(3.0, 1))])
    assert ("**no**" in text) is not holds
    assert "| other | 3.000 |  | 1 |  |  |" in text


def test_the_least_setting_is_found_for_everybody_and_each_way() -> None:
    on = [True, True, False, False]
    needs = np.array([1.0, 2.0, 2.0, 3.0])
    asked = []

    def flips(option: float) -> np.ndarray:
        asked.append(option)
        return needs <= option

    assert edits.least((1.0, 2.0, 3.0, 4.0), on, flips) == (3.0, (2.0, 3.0))
    assert asked == [1.0, 2.0, 3.0]
    assert edits.least((1.0, 2.0), on, flips) == (2.0, (2.0, 2.0))
