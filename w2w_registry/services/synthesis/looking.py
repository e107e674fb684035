"""A photo as a search query: inverted as ``invert`` does it, and forgotten again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from w2w_registry.artifacts import folder_until_exit
from w2w_registry.consent.records import Use
from w2w_registry.lora import write_lora
from w2w_registry.records import Kind
from w2w_registry.services.consent import gate
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.search.found import Query
from w2w_registry.services.synthesis.engine import Engine, initializer_for, require_diffusion
from w2w_registry.services.synthesis.invert import InvertRequest, invert_config, solve


def as_queries(
    registry: Registry,
    photos: Sequence[str],
    engine: Engine,
    *,
    space: str | None = None,
    folder: Path | None = None,
    progress: Progress = no_progress,
) -> list[Query]:
    """Each photo as the point in ``space`` that draws whom it shows; nothing is registered.

    Args:
        folder: where the points are put, to be taken away by the caller; None = a place of their own, gone at exit.

    Raises:
        BadImage: a file that is not a usable photo. ConsentDenied: policy does not let strangers be searched for.
        MissingExtra, NotFound, DeviceError: no torch, no base model (say where it is with ``--pipeline``).
    """
    require_diffusion()
    from w2w_registry.diffusion.images import load_photo

    row, basis = open_space(registry, space)
    gate.require(registry, Use.SEARCH, kind=Kind.PERSON, spaces=[row.id])
    model = engine.open(registry, basis)
    request = InvertRequest(photos=photos, engine=engine)
    looked = [load_photo(Path(photo).expanduser(), model.image_size) for photo in photos]
    initializer = initializer_for(registry, row, model)
    answers = solve(
        model,
        basis,
        looked,
        None,
        invert_config(request, model),
        prompt=request.prompt,
        components=None,
        initializer=None if initializer is None else initializer[0],
        progress=progress,
    )
    if folder is None:
        folder = folder_until_exit(registry.settings.temporary_dir)
    queries = []
    for number, (photo, answer) in enumerate(zip(photos, answers, strict=True)):
        out = folder / str(number)
        theta = basis.reconstruct(answer.coordinates)
        write_lora(out, basis.layout.unflatten(theta), basis.layout.alpha, base_model=basis.base_model)
        queries.append(Query(photo, out, photo=True))
    return queries
