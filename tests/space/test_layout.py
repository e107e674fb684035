"""Layouts: order, flattening, digest, differences."""

from __future__ import annotations

import numpy as np
import pytest

from tests.space.spaces import make_layout
from w2w_registry.space.layout import Layout, differences, layout_of, module_order


def test_release_order() -> None:
    modules = [
        "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
        "down_blocks.10.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_v",
        "down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_q",
        "down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_v",
    ]
    assert sorted(modules, key=module_order) == [modules[i] for i in (5, 4, 3, 2, 1, 0)]


def test_sd15_has_the_paper_s_dimension() -> None:
    """64 modules, 128 tensors, 99,648 parameters at rank 1."""
    shapes = {}
    blocks = [(f"down_blocks.{i}", 2, w) for i, w in enumerate((320, 640, 1280))]
    blocks += [("mid_block", 1, 1280)] + [(f"up_blocks.{i}", 3, w) for i, w in ((1, 1280), (2, 640), (3, 320))]
    for block, count, width in blocks:
        for j in range(count):
            for attention in ("attn1", "attn2"):
                for projection in ("to_q", "to_v"):
                    name = f"{block}.attentions.{j}.transformer_blocks.0.{attention}.{projection}"
                    text = attention == "attn2" and projection == "to_v"
                    shapes[(name, "A")] = (1, 768 if text else width)
                    shapes[(name, "B")] = (width, 1)
    layout = layout_of(shapes, 27.0)
    assert (len(layout.modules), len(layout.tensors), layout.dim) == (64, 128, 99_648)
    assert layout.scale() == 27.0


def test_flatten_and_back() -> None:
    layout = make_layout(rank=2)
    theta = np.arange(layout.dim, dtype=np.float32)
    tensors = layout.unflatten(theta)
    assert np.array_equal(layout.flatten(tensors), theta)
    assert np.shares_memory(tensors[layout.tensors[0].key], theta)
    with pytest.raises(ValueError, match="layout needs"):
        layout.unflatten(theta[1:])
    with pytest.raises(ValueError, match="expected"):
        layout.flatten({k: v.T for k, v in tensors.items()})


def test_digest_names_order_shape_and_alpha() -> None:
    layout = make_layout()
    assert Layout.from_json(layout.to_json()) == layout
    assert Layout.from_json(layout.to_json()).digest == layout.digest
    others = [make_layout(rank=2), make_layout(alpha=5.0), Layout(layout.tensors[::-1], layout.alpha)]
    assert len({layout.digest, *(o.digest for o in others)}) == 4


def test_differences_are_phrases() -> None:
    layout = make_layout()
    assert differences(layout, make_layout()) == ()
    assert "alpha is 5, the space has 4" in differences(layout, make_layout(alpha=5.0))
    assert any("is (2, 6), the space has (1, 6)" in text for text in differences(layout, make_layout(rank=2)))
    fewer = Layout(layout.tensors[2:], layout.alpha)
    assert "2 tensors missing" in differences(layout, fewer)[0]
    assert "2 tensors the space does not have" in differences(fewer, layout)[0]


def test_loras_of_one_shape_have_one_layout() -> None:
    shapes = make_layout().shapes
    one, other = layout_of(shapes, 4.0), layout_of({key: tuple(shape) for key, shape in shapes.items()}, 4.0)
    assert one is other
    assert layout_of(dict(reversed(shapes.items())), 4.0) == one
    assert layout_of(shapes, 8.0) != one
    assert isinstance(layout_of(shapes, 4).alpha, int)  # told apart from 4.0, which is written otherwise
