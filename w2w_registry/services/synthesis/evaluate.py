"""How good a space's inversions, edits and samples are, measured on a team's own photos with an identity scorer.

The mini world's suite (``python -m examples.miniworld.evaluate``) measures against exact truth; here the truth is
photos that were held back, and the yardstick an embedding.  Nothing is registered.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.space_rows import directions_in
from w2w_registry.commands import command
from w2w_registry.consent.records import Use
from w2w_registry.errors import UsageError
from w2w_registry.records import Kind, Result
from w2w_registry.services.consent import gate
from w2w_registry.services.recording.sources import Source, Vector, source
from w2w_registry.services.recording.spaces import metric_of, open_space
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.synthesis import directions as stored
from w2w_registry.services.synthesis.edit import draw_samples
from w2w_registry.services.synthesis.engine import PROMPT, Engine, initializer_for, photo_folders
from w2w_registry.services.synthesis.invert import padded
from w2w_registry.space import directions as maths
from w2w_registry.space import intervals
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.intervals import Estimate

if TYPE_CHECKING:
    from w2w_registry.diffusion.pipeline import DiffusionModel
    from w2w_registry.diffusion.scorer import IdentityScorer

SUITES: Final = ("inversion", "edits", "sampling")


@dataclass(frozen=True)
class EvaluateRequest:
    """What ``w2w-reg evaluate`` was asked. ``photos``: a folder per held-out identity, two photos or more in each.

    ``scorer``: an image embedding's folder or Hub id, or ``module:function`` that returns an ``IdentityScorer``.
    """

    space: str | None
    suite: str
    scorer: str
    photos: str | None = None
    limit: int = 20
    seeds: Sequence[int] = (1, 2, 3, 4)
    steps: int = 30
    guidance: float | None = None
    prompt: str = PROMPT
    purpose: str | None = None
    engine: Engine = field(default_factory=Engine)


@dataclass(frozen=True, eq=False)
class Figure(Result):
    """One line of the table: a figure with its 95% interval, and the number ``n`` of identities behind it."""

    what: str
    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, what: str, estimate: Estimate) -> Figure:
        return cls(what, **asdict(estimate))


@dataclass(frozen=True, eq=False)
class Evaluated(Result):
    """What a suite measured, with which scorer, seeds and models; ``rows``: its figures."""

    space: str
    suite: str
    scorer: str
    seeds: list[int]
    models: Mapping[str, str]
    rows: list[Figure]


def evaluate(registry: Registry, request: EvaluateRequest, progress: Progress = no_progress) -> Evaluated:
    """Run one suite.

    Raises:
        UsageError, NotFound, ConsentDenied, BadImage, DeviceError, MissingExtra.
    """
    if request.suite not in SUITES:
        raise UsageError(reason=f"unknown suite {request.suite!r}", hint="one of: " + ", ".join(SUITES))
    if len(request.seeds) < 2 or request.limit < 2:
        raise UsageError(reason="measuring needs at least two seeds and two identities")
    if request.photos is not None and request.suite != "inversion":
        raise UsageError(reason=f"[[photos]] are for the inversion suite; the {request.suite} suite draws its own")
    row, space = open_space(registry, request.space)
    bench = _Bench(registry, request, row, space, progress)
    figures = {"inversion": bench.inversion, "edits": bench.edits, "sampling": bench.sampling}[request.suite]()
    seeds = list(request.seeds)
    return Evaluated(row.ref, request.suite, bench.scorer.name, seeds, bench.model.versions(), figures)


def open_scorer(text: str, engine: Engine) -> IdentityScorer:
    """The scorer a text names.

    Raises:
        UsageError: ``module:function`` does not lead to one. NotFound: no such embedding. MissingExtra.
    """
    from w2w_registry.diffusion.scorer import EmbeddingScorer, IdentityScorer

    module, colon, function = text.partition(":")
    if not colon or "/" in text or "\\" in text:
        return EmbeddingScorer(text, device=engine.device)
    try:
        scorer = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise UsageError(reason=f"[[scorer]] {text}: {error}") from None
    if not isinstance(scorer, IdentityScorer):
        raise UsageError(reason=f"[[scorer]] {text} gives no IdentityScorer (name, embed)")
    return scorer


class _Bench:
    """One run: the opened model and scorer, and what the suites share."""

    def __init__(
        self, registry: Registry, request: EvaluateRequest, row: Space, space: WeightSpace, progress: Progress
    ) -> None:
        self.registry, self.request, self.row, self.space, self.progress = registry, request, row, space, progress
        self.model: DiffusionModel = request.engine.open(registry, space)
        self.scorer = open_scorer(request.scorer, request.engine)

    def inversion(self) -> list[Figure]:
        """Identity score of single-photo inversions, and whether they find the registered person."""
        from w2w_registry.diffusion.images import find_photos, load_photo
        from w2w_registry.diffusion.initializer import features
        from w2w_registry.diffusion.invert import InvertConfig, SpaceBasis, invert
        from w2w_registry.diffusion.pipeline import fast_bf16
        from w2w_registry.diffusion.scorer import between

        if self.request.photos is None:
            raise UsageError(reason="the inversion suite needs [[photos]]: a folder per held-out identity")
        gate.require(self.registry, Use.INVERT, kind=Kind.PERSON, spaces=[self.row.id], purpose=self.request.purpose)
        folders = {n: find_photos(p) for n, p in photo_folders(Path(self.request.photos)).items()}
        names = [n for n, photos in folders.items() if len(photos) > 1][: self.request.limit]
        if len(names) < 2:
            raise UsageError(reason="at least two identities with two photos each are needed")
        words = self.model.encode_text(self.request.prompt)
        found = initializer_for(self.registry, self.row, self.model)
        config = InvertConfig(bf16=fast_bf16(self.model.device))
        s = self.space
        basis = SpaceBasis.of(
            s.layout, s.mean, s.std, s.components, s.component_std, device=self.model.device, dtype=self.model.dtype
        )
        points, drawn, real = [], [], []
        for done, name in enumerate(names, start=1):
            pixels = np.stack([load_photo(p, self.model.image_size).pixels for p in folders[name]])
            latents = self.model.encode_images(pixels[:1])
            initial = None if found is None else found[0].fitted_to(basis.k)(features(self.model, latents, words))
            (answer,) = invert(self.model, basis, latents, words, config, initial=initial)
            points.append(padded(answer.coordinates, s.k))
            pictures = self._draw([s.reconstruct(points[-1])])[0]
            vectors = self.scorer.embed(list(pixels[1:]))
            drawn.append(between(self.scorer.embed(pictures), vectors))
            real.append(between(self.scorer.embed(list(pixels[:1])), vectors))
            self.progress(done, len(names))
        figures = [
            Figure.of("identity score, real photos with each other", intervals.mean(real)),
            Figure.of("identity score, single-photo inversion", intervals.mean(drawn)),
            Figure.of("single-photo inversion ÷ real photos", intervals.ratio(drawn, real)),
        ]
        return figures + self._recall(names, np.stack(points))

    def _recall(self, names: Sequence[str], points: Vector) -> list[Figure]:
        with self.registry.catalog.read() as session:
            people = stored.labelled(session, self.row)
            refs = refs_of(session, people.version_ids)
        owners = [refs[v].name for v in people.version_ids]
        rows = [i for i, name in enumerate(names) if name in owners]
        if not rows:
            return []
        metric = metric_of(self.row)
        nearest = (metric.unit(points[rows]) @ metric.unit(people.coordinates).T).argmax(1)
        hits = [owners[j] == names[i] for i, j in zip(rows, nearest, strict=True)]
        return [Figure.of(f"nearest of {len(owners)} registered is the person", intervals.mean(np.array(hits, float)))]

    def edits(self) -> list[Figure]:
        """Identity kept under one and two units of every stored direction, seed by seed."""
        from w2w_registry.diffusion.scorer import score

        people = self._people()
        with self.registry.catalog.read() as session:
            rows = directions_in(session, self.row.id)
        if not rows:
            raise UsageError(
                reason=f"no directions in {self.row.ref}", hint=f"`{command('direction fit', 'NAME')}` first"
            )
        plain = [self.space.reconstruct(p.coordinates) for p in people]
        before = [self.scorer.embed(pictures) for pictures in self._draw(plain)]
        figures = []
        for done, row in enumerate(rows, start=1):
            direction = stored.from_row(row)
            for units in (1.0, 2.0):
                step = maths.solve_edit([(direction, units)], (), self.space.component_std)
                moved = [self.space.reconstruct(p.coordinates + step) for p in people]
                after = [self.scorer.embed(pictures) for pictures in self._draw(moved)]
                kept = [float(score(a, b).mean()) for a, b in zip(before, after, strict=True)]
                figures.append(Figure.of(f"identity kept under {row.name} {units:+g}", intervals.mean(kept)))
            self.progress(done, len(rows))
        return figures

    def sampling(self) -> list[Figure]:
        """Consistency over seeds of samples against registered identities, and how far they are from everybody."""
        from w2w_registry.diffusion.scorer import consistency

        people = self._people()
        with self.registry.catalog.read() as session:
            known = stored.labelled(session, self.row).coordinates
        found = draw_samples(self.space, known, known, len(people), seed=0, min_distance=0.0, shape="unmixed")
        made = [self.space.reconstruct(p.astype(np.float32)) for p in found.points]
        trained = [self.space.reconstruct(p.coordinates) for p in people]
        own = [consistency(self.scorer.embed(pictures)) for pictures in self._draw(made)]
        theirs = [consistency(self.scorer.embed(pictures)) for pictures in self._draw(trained)]
        spread = found.points.std(0).mean() / known.std(0).mean()
        return [
            Figure.of("consistency over seeds, registered", intervals.mean(theirs)),
            Figure.of("consistency over seeds, sampled", intervals.mean(own)),
            Figure.of("sampled ÷ registered", intervals.ratio(own, theirs)),
            Figure.of("distance to the nearest registered identity", intervals.mean(found.distance)),
            Figure.of("spread of coordinates ÷ that of registered", intervals.mean([spread])),
        ]

    def _people(self) -> list[Source]:
        """Registered identities whose consent allows drawing them, at most as many as asked for."""
        with self.registry.catalog.read() as session:
            ids = stored.labelled(session, self.row).version_ids
            found = []
            for version in versions_by_id(session, ids).values():
                allowed = gate.ask(
                    self.registry, Use.GENERATE, versions=[version.id], purpose=self.request.purpose, session=session
                ).allowed
                if allowed:
                    found.append(source(session, version, self.row))
                if len(found) == self.request.limit:
                    break
        if len(found) < 2:
            raise UsageError(
                reason="fewer than two registered identities may be drawn",
                hint=f"`{command('consent check', 'NAME')}` says why",
            )
        return found

    def _draw(self, thetas: Sequence[Vector]) -> list[list[Any]]:
        from w2w_registry.diffusion.generate import Recipe, Shot, draw
        from w2w_registry.diffusion.pipeline import fast_bf16

        recipe = Recipe(self.request.prompt, steps=self.request.steps, guidance=self.request.guidance)
        shots = [Shot(theta, seed) for theta in thetas for seed in self.request.seeds]
        pictures = draw(self.model, self.space.layout, shots, recipe, bf16=fast_bf16(self.model.device))
        each = len(self.request.seeds)
        return [pictures[i : i + each] for i in range(0, len(pictures), each)]
