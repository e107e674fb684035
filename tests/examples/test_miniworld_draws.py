"""With its LoRA the shipped pipeline draws the identity, and the readers see it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from examples.miniworld import identities as people  # noqa: E402
from examples.miniworld import unpack as store  # noqa: E402
from examples.miniworld.pipeline import PROMPT, TEXT_LENGTH, load_pipeline  # noqa: E402
from examples.miniworld.readers import identity_score, load_readers, unit  # noqa: E402
from examples.miniworld.render import render  # noqa: E402
from examples.miniworld.sample import sample  # noqa: E402
from examples.miniworld.world import (  # noqa: E402
    ATTRIBUTES,
    CONTINUOUS,
    sample_attributes,
    sample_nuisances,
    vocabulary,
)
from w2w_registry.diffusion.bank import LoraBank  # noqa: E402

CUT = len(CONTINUOUS)


@pytest.fixture(scope="module")
def pipeline():
    torch.set_num_threads(1)
    return load_pipeline(store.DATA / "pipeline")


@pytest.fixture(scope="module")
def readers():
    return load_readers(store.DATA / "readers.safetensors")


def test_readers_read_renders(readers) -> None:
    truth = sample_attributes(300, 31)
    readings = readers.read(render(truth, sample_nuisances(300, 31)))
    error = np.square(readings[:, :CUT] - truth[:, :CUT]).mean(axis=0) / truth[:, :CUT].var(axis=0)
    assert (1.0 - error).mean() > 0.9
    assert ((readings[:, CUT:] > 0.5) == (truth[:, CUT:] > 0.5)).mean() > 0.98


def test_identity_score_of_strangers_is_zero_on_average() -> None:
    truth = sample_attributes(400, 32)
    vectors = unit(truth)
    scores = vectors @ vectors.T
    assert scores[~np.eye(400, dtype=bool)].mean() == pytest.approx(0.0, abs=0.01)
    assert identity_score(truth, truth) == pytest.approx(1.0, abs=1e-5)


def test_every_word_is_one_token(pipeline) -> None:
    for word in vocabulary():
        assert len(pipeline.tokenizer(word).input_ids) == 3
    assert pipeline.tokenizer.model_max_length == TEXT_LENGTH


def test_loras_draw_their_identities_from_any_seed(pipeline, readers) -> None:
    stored, truth = store.load_loras(), people.attributes()
    rows = np.repeat([0, 1, 2, 3, people.FIT, people.FIT + 1], 3)
    bank = LoraBank(pipeline.unet, stored.layout)
    photos = sample(pipeline, [PROMPT] * len(rows), [5, 6, 7] * 6, bank, torch.from_numpy(stored.theta[rows]))
    readings = readers.read(photos)
    right = (readings[:, CUT:] > 0.5) == (truth[rows, CUT:] > 0.5)
    assert right.mean() >= 0.8
    own = identity_score(readings, truth[rows])
    strangers = identity_score(readings, truth[np.roll(rows, 3)])
    assert own.mean() > 0.5
    assert own.mean() > strangers.mean() + 0.4


@pytest.mark.parametrize("word", ["beard", "glasses", "hat", "earrings"])
def test_base_obeys_a_word(pipeline, readers, word: str) -> None:
    photos = sample(pipeline, [f"photo of person with {word}"] * 8, list(range(8)))
    assert (readers.read(photos)[:, ATTRIBUTES.index(word)] > 0.5).mean() >= 0.75


def test_stock_pipeline_draws_the_same(pipeline) -> None:
    ours = sample(pipeline, ["photo of person with hat"], [3], steps=8)[0]
    latents = torch.randn((1, 8, 8, 8), generator=torch.Generator().manual_seed(3))
    stock = pipeline(
        "photo of person with hat",
        latents=latents,
        num_inference_steps=8,
        guidance_scale=2.5,
        height=32,
        width=32,
        output_type="np",
    ).images[0]
    assert np.abs(np.rint(stock * 255) - ours).max() <= 2


def test_stock_pipeline_draws_with_defaults() -> None:
    """No argument is needed: every part computes in one precision."""
    from diffusers import DiffusionPipeline

    stock = DiffusionPipeline.from_pretrained(store.DATA / "pipeline")
    stock.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (stock.unet, stock.vae, stock.text_encoder)} == {torch.float32}
    picture = stock("photo of person", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (32, 32, 3)
