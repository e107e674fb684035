"""A picture for a version that came without one: drawn once, kept, marked when it leaves, and only with consent."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.diffusion import tiny
from tests.services import studio
from w2w_registry.diffusion.pipeline import load_model
from w2w_registry.errors import Conflict, ConsentDenied
from w2w_registry.services.audit import log
from w2w_registry.services.identities import paging
from w2w_registry.services.registry import open_registry
from w2w_registry.services.synthesis import edit
from w2w_registry.services.synthesis.previewing import PreviewRequest, draw_preview


def test_a_mix_gets_its_picture(tmp_path: Path) -> None:
    pipeline = tiny.build("sd1", tmp_path / "pipeline")
    settings = studio.build(tmp_path, pipeline, tiny.layout(load_model(pipeline, device="cpu").unet))
    with open_registry(settings) as registry:
        ref = edit.mix(registry, ["p00", "p01"], (1, 1), name="both")["ref"]
        assert paging.cards_of(registry, [ref])[ref]["picture"] is None
        request = PreviewRequest(ref, steps=2, engine=studio.ENGINE)
        made = draw_preview(registry, request)
        assert paging.cards_of(registry, [ref])[ref]["picture"] == made["preview"]
        data, _ = paging.picture(registry, ref)
        assert Image.open(io.BytesIO(data)).size >= (32, 32)
        with pytest.raises(Conflict):
            draw_preview(registry, request)
        other = PreviewRequest(ref, seed=2, steps=2, replace_existing=True, engine=studio.ENGINE)
        again = draw_preview(registry, other)
        assert again["preview"] != made["preview"]
        assert [e["action"] for e in log.events_list(registry, action="preview.")] == ["preview.draw"] * 2
        assert log.verify(registry).ok
        with pytest.raises(ConsentDenied):
            draw_preview(studio.strict(registry), other)
