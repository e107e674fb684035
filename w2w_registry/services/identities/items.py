"""What ``add`` is asked, and what became of each file: values shared by its ways in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from w2w_registry.catalog.models import Space
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadFile, RegistryError, UsageError
from w2w_registry.lora import Candidate, Mark, Skipped, find_loras
from w2w_registry.records import Kind, Rank, Told, check_name, rank_of
from w2w_registry.services.consent import gate
from w2w_registry.services.recording.labels import Labels, read_labels_csv
from w2w_registry.services.recording.placement import same_model_id
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.recording.versions import Input
from w2w_registry.services.registry import Registry
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.layout import Layout
from w2w_registry.space.sketch import Sketch


@dataclass(frozen=True)
class AddRequest:
    """What ``w2w-reg add`` was asked. ``name`` is for a single file; ``labels`` go to every version,
    ``labels_csv`` by name. ``origin``: where files that were fetched (``pull``) come from. ``candidates``: what is
    under ``paths``, when it was looked for already; ``table``: labels by candidate's name, when they were read.
    ``evidence``: the digest of what proves whom they depict, for versions that are there and said to depict nobody yet.
    ``manifest``: the digest of the manifest that a release brought along (``pull``). ``brings``: writes what else it
    brought, in the transaction that records the files; none of it stays when one of them fails. ``noted``: writes, in
    that transaction too, what became of each file.
    ``pipeline``: the base model's folder, to see what each draws (default: where it is known to lie). ``seen``: what is
    known of ``candidates`` that were looked at, by path."""

    paths: Sequence[str]
    space: str | None = None
    name: str | None = None
    prefix: str = ""
    kind: str | None = None
    subjects: Sequence[str] = ()
    labels: Labels = field(default_factory=dict)
    labels_csv: str | None = None
    base_model: str | None = None
    dry_run: bool = False
    origin: Input | None = None
    candidates: Sequence[Candidate] | None = None
    table: Mapping[str, Labels] | None = None
    evidence: str | None = None
    manifest: str | None = None
    pipeline: str | None = None
    brings: Callable[[UnitOfWork], object] | None = None
    noted: Callable[[UnitOfWork, Item], object] | None = None
    seen: Mapping[Path, Seen] = field(default_factory=dict)

    def bring(self, uow: UnitOfWork) -> None:
        """Write what comes with the files, before they are recorded."""
        if self.brings is not None:
            self.brings(uow)

    def settled(self, uow: UnitOfWork, items: Sequence[Item]) -> list[Item]:
        """What became of the files, noted inside the transaction.

        Raises:
            RegistryError: one failed that brought something: nothing is to stay.
        """
        for item in items:
            if self.brings is not None and item.error is not None:
                raise item.error
            if self.noted is not None and item.error is None:
                self.noted(uow, item)
        return list(items)

    @property
    def meant_kind(self) -> Kind:
        """What new identities depict: a person, when nothing was said.

        Raises:
            UsageError: no such kind.
        """
        return Kind.PERSON if self.kind is None else Kind.parse(self.kind)

    def called(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates, the only one under the name that was said.

        Raises:
            UsageError: a name for several. BadName.
        """
        if self.name is None:
            return list(candidates)
        if len(candidates) != 1:
            raise UsageError(reason=f"[[name]] is for one adapter, {len(candidates)} were given", hint="try [[prefix]]")
        return [replace(candidates[0], name=check_name(self.name), said=True)]

    def not_changed(self, kind: str, base_model: str | None) -> tuple[str, ...]:
        """What to tell of a version that is there already, when another kind or base model than its own was said."""
        told = []
        if self.kind is not None and self.kind != kind:
            told.append(f"stays of kind {kind}, not {self.kind}: an identity keeps the kind it was added with")
        if self.base_model is not None and not same_model_id(self.base_model, base_model or ""):
            own = f"of base model {base_model}" if base_model else "without a base model"
            told.append(f"stays {own}, not of {self.base_model}: a version keeps what it was registered with")
        return tuple(Told(text, Rank.CONTRADICTION) for text in told)


@dataclass(frozen=True)
class Item:
    """What became of one file. ``status``: added, existing or failed; ``same_model`` says how an existing one is
    known when its bytes differ; ``updated`` names what was changed of it: labels, and subjects as ``subject ID``.
    ``warnings``: the gravest first. ``held``: it was added, and nothing is done with it until somebody has decided
    whom it depicts."""

    path: str
    status: str
    identity: str | None = None
    version: int | None = None
    residual: float | None = None
    gauge: str | None = None
    same_model: str | None = None
    warnings: tuple[str, ...] = ()
    error: RegistryError | None = None
    updated: tuple[str, ...] = ()
    held: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "warnings", tuple(sorted(self.warnings, key=rank_of)))

    def to_json(self) -> dict[str, Any]:
        """Without the error, whose sentence is the command line's business."""
        shown = {name: value for name, value in vars(self).items() if name != "error"}
        return {**shown, "warnings": list(self.warnings), "updated": list(self.updated)}


@dataclass(frozen=True)
class Seen:
    """One readable adapter: what a plan needs of it, and what need not be worked out again when it is added, without
    its tensors. ``mark``: by what its file is known again. ``digests``: exact, and as fp16 and bf16 files hold it;
    exact alone where it is ``firm``: rounding moves it so little that its sketch finds what it is rounded to.
    ``model``: the same number for two that are the same model. ``part``: of the pipeline, which it changes most.
    ``scaled``: the file, or what lies beside it, says its alpha. ``remarks``: what is said of it where it is kept in no
    space."""

    candidate: Candidate
    kind: str
    format: str
    dtype: str
    mark: Mark
    digests: tuple[str, ...]
    base_model: str | None
    base_hint: str | None
    layout: Layout | None
    ranks: tuple[int, ...]
    sketch: Sketch | None
    model: int
    part: str
    scaled: bool = True
    remarks: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of its tensor file."""
        return self.mark.sha256

    @property
    def size(self) -> int:
        """Bytes of its tensor file."""
        return self.mark.size

    @property
    def firm(self) -> bool:
        """Whether its sketch finds what it is rounded to."""
        return len(self.digests) == 1


@dataclass(frozen=True)
class AddReport:
    """All items, in the order the files were found, and the space they were placed in."""

    space: str | None
    items: tuple[Item, ...]

    @property
    def exit_code(self) -> int:
        """0 when no file failed; the failures' common exit code, or 5 when they differ."""
        codes = {item.error.exit_code for item in self.items if item.error is not None}
        return 0 if not codes else codes.pop() if len(codes) == 1 else BadFile.exit_code


__all__ = ["AddReport", "AddRequest", "Item", "Seen", "Skipped"]


@dataclass(frozen=True, eq=False)
class Meant:
    """A request that may go on: the space's row and basis, labels by name, and what is to be added."""

    kind: Kind
    row: Space
    space: WeightSpace
    labels: Mapping[str, Labels]
    candidates: list[Candidate]


def meant(registry: Registry, request: AddRequest) -> Meant:
    """Look up what a request names, and ask whether its subjects may be registered there.

    Raises:
        NotFound: no such space. UsageError, BadName, BadFile: the request itself cannot be used.
        ConsentDenied: the subjects' consent does not allow registering them.
    """
    kind = request.meant_kind
    row, space = open_space(registry, request.space)
    labels: dict[str, Labels] = dict(request.table or {})
    if request.labels_csv and request.table is None:
        labels = dict(read_labels_csv(request.labels_csv))
    candidates = request.called(request.candidates if request.candidates is not None else find_loras(request.paths))
    gate.require(registry, Use.REGISTER, subjects=request.subjects, kind=kind, spaces=[row.id])
    return Meant(kind, row, space, labels, candidates)
