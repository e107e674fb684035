"""Fingerprints taken and kept: of registered versions with the base model at hand, batch by batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.lookup import versions_by_id
from w2w_registry.catalog.models import Coordinates, Fingerprint, Identity, Space, Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.vectors import unpack
from w2w_registry.errors import BadLora, MissingExtra, NotFound, RegistryError, UsageError
from w2w_registry.messages import message
from w2w_registry.records import VersionState
from w2w_registry.services.recording.pipelines import at_hand, remember, to_open
from w2w_registry.services.recording.spaces import load_space
from w2w_registry.services.recording.workers import BaseModel, mapped
from w2w_registry.services.registry import Progress, Registry, no_progress

if TYPE_CHECKING:
    from w2w_registry.diffusion.fingerprint import Adapter
    from w2w_registry.diffusion.pipeline import DiffusionModel

PROMPT: Final = "photo of sks person"
"""What every adapter is asked with, unless ``--prompt`` says otherwise: answers to one prompt can be compared."""
_PACKAGES: Final = ("torch", "diffusers", "transformers")
AT_ONCE: Final = 256
"""Fingerprints per transaction: what an interruption can lose."""


@dataclass(frozen=True, eq=False)
class Prober:
    """An opened base model with a question. ``base`` is the digest of its UNet's weights; ``question``, the probes and
    the prompt (``diffusion.fingerprint.QUESTIONS``)."""

    model: DiffusionModel
    base: str
    question: str

    @property
    def probes(self) -> str:
        return self.question.partition(" ")[0]

    @property
    def prompt(self) -> str:
        return self.question.partition(" ")[2]

    def of_adapters(self, adapters: Sequence[Adapter], progress: Progress = no_progress) -> NDArray[np.float32]:
        from w2w_registry.diffusion.fingerprint import fingerprints

        return fingerprints(self.model, adapters, self.prompt, probes=self.probes, progress=progress)

    def of_each(self, adapters: Sequence[Adapter]) -> NDArray[np.float32]:
        """As ``of_adapters``; where one of many does not fit, the error is about that one.

        Raises:
            BadLora.
        """
        try:
            return self.of_adapters(adapters)
        except BadLora:
            return np.concatenate([self.of_adapters([one]) for one in adapters])


@dataclass(frozen=True)
class Taken:
    """What became of each version. ``skipped``: reference and reason. ``versions``: ids of those just taken."""

    taken: int
    already: int
    base: str
    question: str
    skipped: tuple[tuple[str, str], ...] = field(default_factory=tuple)
    versions: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "taken": self.taken,
            "already": self.already,
            "base": self.base,
            "question": self.question,
            "skipped": [{"version": ref, "reason": reason} for ref, reason in self.skipped],
        }


def open_prober(
    pipeline: str,
    *,
    prompt: str = PROMPT,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    revision: str | None = None,
    local: bool = False,
) -> Prober:
    """Open a base model to take fingerprints with: in float32, so that every machine sees the same weights.

    Raises:
        MissingExtra, NotFound, DeviceError, UsageError.
    """
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingExtra(package=package, extra="diffusion", feature="taking fingerprints")
    from w2w_registry.diffusion.pipeline import load_model

    try:
        model = load_model(pipeline, revision=revision, device=device, dtype="float32", local=local)
    except NotFound as error:
        reason = str(error.fields.get("reason", ""))
        if not reason:
            raise
        why = f"say where it is with [[pipeline]] ({reason.rstrip('.')})"
        raise NotFound(what="base model", name=pipeline, reason=why) from None
    return prober_of(model, prompt)


def prober_of(model: DiffusionModel, prompt: str = PROMPT) -> Prober:
    """The question asked of a base model that is open already, in float32."""
    from w2w_registry.diffusion.fingerprint import PROBES

    return Prober(model, model.unet_digest, f"{PROBES} {prompt}")


def opener(
    registry: Registry, pipeline: str | None, device: Any = "auto", *, prompt: str = PROMPT
) -> Callable[[], Prober]:
    """Opens the base model when it is called."""

    def opened() -> Prober:
        name, local = to_open(registry, "" if pipeline else base_model_of(registry), pipeline)
        return open_prober(name, prompt=prompt, device=device, local=local)

    return opened


def opener_for(
    registry: Registry, by: str | None, pipeline: str | None, device: Any = "auto"
) -> Callable[[], Prober] | None:
    """What opens the base model for a search ``by`` weights, behaviour or both: the one named, or where neither is said
    the one that lies on this machine; None where none does, torch is not installed, or only weights are compared.
    Nothing is opened to tell."""
    if by == "weights":
        return None
    if by is not None or pipeline is not None:
        return opener(registry, pipeline, device)
    try:
        there = at_hand(registry, base_model_of(registry))
    except UsageError:
        return None
    return None if there is None or any(find_spec(p) is None for p in _PACKAGES) else opener(registry, None, device)


def base_model_of(registry: Registry) -> str:
    """The base model to open when none is named: of the newest space, else the only one that versions name.

    Raises:
        UsageError: there is none, or several.
    """
    from w2w_registry.catalog.resolve import default_space

    with registry.catalog.read() as session:
        space = default_space(session)
        if space is not None:
            return space.base_model
        ids = stored.probable(session)
        named = {v.base_model for v in versions_by_id(session, ids).values() if v.base_model}
    if len(named) == 1:
        return named.pop()
    raise UsageError(
        reason="nothing says which base model to ask" if not named else f"{len(named)} base models are registered",
        hint="name it with [[pipeline]]",
    )


def take(
    registry: Registry,
    prober: Prober,
    names: Sequence[str] = (),
    *,
    again: bool = False,
    progress: Progress = no_progress,
    ray: str | None = None,
) -> Taken:
    """Take the fingerprints of ``names`` (all versions in service or blocked when none are named) and keep them.

    What is there already is left alone, unless ``again``; an interrupted run goes on where it stopped. Where the base
    model was opened from is remembered, for those who come next. ``ray``: the cluster they are taken on, batch by batch
    (``workers.mapped``).

    Raises:
        NotFound: a name nobody has.
    """
    with registry.catalog.read() as session:
        wanted = [version_for(session, name).id for name in names] if names else stored.probable(session)
        has = stored.answered(session, prober.base, prober.question, wanted)
    todo = [v for v in dict.fromkeys(wanted) if again or v not in has]
    skipped: list[tuple[str, str]] = []
    taken, seen = 0, list[int]()
    named: set[str | None] = set()
    waiting: deque[_Part] = deque()

    def adapters() -> Iterator[list[Adapter]]:
        for start in range(0, len(todo), AT_ONCE):
            waiting.append(_read(registry, todo[start : start + AT_ONCE], start))
            yield waiting[-1].adapters

    def tick(done: int, _total: int) -> None:
        progress(waiting[0].start + done, len(todo))

    here, began = prober.model.device.type, time.perf_counter()
    ask = _Ask(prober, tick) if ray is None else _AskThere(BaseModel.of(prober.model), prober.question)
    for matrix in mapped(ask, adapters(), ray, card=here == "cuda"):
        part = waiting.popleft()
        ids, rows = (part.ids, matrix) if matrix is not None else _each(registry, prober, part)
        skipped += part.failed
        ended = time.perf_counter()
        taken += keep(registry, prober, ids, rows, ended - began)
        began = ended
        seen += ids
        named.update(v.base_model for v in _versions(registry, ids))
        progress(part.start + part.size, len(todo))
    remember(registry, named, prober.model.source)
    return Taken(taken, len(wanted) - len(todo), prober.base, prober.question, tuple(skipped), tuple(seen))


def _versions(registry: Registry, version_ids: Sequence[int]) -> list[Version]:
    with registry.catalog.read() as session:
        return list(versions_by_id(session, version_ids).values())


def keep(
    registry: Registry,
    prober: Prober,
    version_ids: Sequence[int],
    matrix: NDArray[np.float32],
    seconds: float | None = None,
) -> int:
    """Record fingerprints (n, D) of versions, in place of what they had for this base and question; how many were
    kept (one erased meanwhile gets none). ``seconds``: what it took to take them."""
    if not len(version_ids):
        return 0
    with registry.catalog.write(registry.actor) as uow:
        there = versions_by_id(uow.session, version_ids)
        rows = [(v, row) for v, row in zip(version_ids, matrix, strict=True)
                if v in there and there[v].state is not VersionState.ERASED]  # fmt: skip
        if not rows:
            return 0
        old = uow.keys(
            Fingerprint,
            Fingerprint.base == prober.base,
            Fingerprint.question == prober.question,
            Fingerprint.version_id.in_([v for v, _ in rows]),
        )
        uow.bulk_delete(Fingerprint, old)
        for version, row in rows:
            data = np.ascontiguousarray(row, "<f4").tobytes()
            uow.add(Fingerprint(version_id=version, base=prober.base, question=prober.question, data=data))
        told = {"base": prober.base, "count": len(rows)} | ({} if seconds is None else {"seconds": round(seconds, 3)})
        uow.event("fingerprint.take", {"version": [v for v, _ in rows]}, **told)
        return len(rows)


@dataclass(frozen=True, eq=False)
class _Part:
    """Versions asked together: those that could be read, as ``ids`` and ``adapters``, and why the others could not."""

    start: int
    size: int
    ids: list[int]
    adapters: list[Adapter]
    failed: list[tuple[str, str]]


def _read(registry: Registry, version_ids: Sequence[int], start: int) -> _Part:
    part = _Part(start, len(version_ids), [], [], [])
    with registry.catalog.read() as session:
        for version in versions_by_id(session, version_ids).values():
            try:
                part.adapters.append(adapter_of(registry, session, version))
                part.ids.append(version.id)
            except RegistryError as error:
                part.failed.append((_ref(session, version), message(error)))
    return part


@dataclass(frozen=True, eq=False)
class _Ask:
    """Fingerprints (n, D) by the base model opened here; None where one of the adapters does not fit it."""

    prober: Prober
    tick: Progress

    def __call__(self, adapters: Sequence[Adapter]) -> NDArray[np.float32] | None:
        try:
            return self.prober.of_adapters(adapters, self.tick)
        except RegistryError:
            return None


@dataclass(frozen=True)
class _AskThere:
    """As ``_Ask``, wherever the base model can be opened."""

    base: BaseModel
    question: str

    def __call__(self, adapters: Sequence[Adapter]) -> NDArray[np.float32] | None:
        return _Ask(replace(prober_of(self.base.open()), question=self.question), no_progress)(adapters)


def _each(registry: Registry, prober: Prober, part: _Part) -> tuple[list[int], NDArray[np.float32]]:
    """One of a part does not fit: ask each by itself, so that the others are not lost; say why of those that fail."""
    good: list[int] = []
    rows: list[NDArray[np.float32]] = []
    with registry.catalog.read() as session:
        for version_id, adapter in zip(part.ids, part.adapters, strict=True):
            try:
                rows.append(prober.of_adapters([adapter])[0])
                good.append(version_id)
            except RegistryError as error:
                part.failed.append((_ref(session, session.get_one(Version, version_id)), message(error)))
    return good, np.array(rows, np.float32)


def adapter_of(registry: Registry, session: Session, version: Version) -> Adapter:
    """What a version does: the file it came as, or its point in its space when that is all there is."""
    from w2w_registry.diffusion.fingerprint import Adapter, read_adapter

    if version.artifact_digest is not None:
        with registry.artifacts.local(version.artifact_digest) as path:
            return read_adapter(path)
    row = None if version.space_id is None else session.get(Coordinates, (version.space_id, version.id))
    if row is None:
        raise UsageError(reason="neither a file nor coordinates are kept of it")
    space = load_space(registry.artifacts, session.get_one(Space, version.space_id))
    return Adapter(space.layout, space.reconstruct(unpack(row.data)))


def _ref(session: Session, version: Version) -> str:
    return f"{session.get_one(Identity, version.identity_id).name}@{version.number}"
