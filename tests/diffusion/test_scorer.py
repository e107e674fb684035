from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.diffusion import tiny
from w2w_registry.diffusion.scorer import EmbeddingScorer, IdentityScorer, between, consistency, score
from w2w_registry.errors import NotFound


def units(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_score_is_the_cosine() -> None:
    a = units(np.random.default_rng(0).normal(size=(4, 6)))
    np.testing.assert_allclose(score(a, a), 1.0, atol=1e-6)
    np.testing.assert_allclose(score(a, -a), -1.0, atol=1e-6)


def test_between_and_consistency_average_over_pairs() -> None:
    rng = np.random.default_rng(1)
    drawn, real = units(rng.normal(size=(3, 5))), units(rng.normal(size=(4, 5)))
    assert between(drawn, real) == pytest.approx(np.mean([[float(d @ r) for r in real] for d in drawn]), abs=1e-6)
    pairs = [float(drawn[i] @ drawn[j]) for i in range(3) for j in range(3) if i != j]
    assert consistency(drawn) == pytest.approx(np.mean(pairs), abs=1e-6)
    with pytest.raises(ValueError, match="two"):
        consistency(drawn[:1])


def save(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    if kind == "clip":
        from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

        small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = CLIPConfig(
            text_config=CLIPTextConfig(**small, vocab_size=10).to_dict(),
            vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=16).to_dict(),
            projection_dim=8,
        )
        CLIPModel(config).save_pretrained(folder)
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    else:
        from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

        config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
        Dinov2Model(config).save_pretrained(folder)
        BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_embedding_models_score(tmp_path: Path, kind: str) -> None:
    scorer = EmbeddingScorer(save(kind, tmp_path / kind), device="cpu")
    assert isinstance(scorer, IdentityScorer)
    pictures = [tiny.photo(i, 40) for i in range(3)]
    found = scorer.embed(pictures)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(scorer.embed(pictures, batch=1), found, atol=1e-5)
    assert float(score(found[0], found[0])) > float(score(found[0], found[1]))
    assert scorer.embed([]).shape[0] == 0
    assert str(tmp_path) in scorer.name


def test_centring_pulls_portraits_apart(tmp_path: Path) -> None:
    folder = save("clip", tmp_path)
    plain = EmbeddingScorer(folder, device="cpu").embed([tiny.photo(i, 40) for i in range(8)])
    raw = plain.mean(0)
    centred = EmbeddingScorer(folder, device="cpu", centre=raw).embed([tiny.photo(i, 40) for i in range(8)])
    assert consistency(centred) < consistency(plain)


def test_missing_models_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        EmbeddingScorer(tmp_path, device="cpu")
