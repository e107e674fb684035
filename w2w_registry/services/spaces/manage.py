"""Weight spaces: fit, import, list, show, export, refit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from w2w_registry.catalog.models import (
    InputKind,
    Space,
    SpaceMember,
)
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.space_rows import next_space_number, space_with_digest
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadFile, NoPoints
from w2w_registry.records import Kind, Result, check_name, now
from w2w_registry.services.consent import gate
from w2w_registry.services.recording.outputs import check_outputs
from w2w_registry.services.recording.space_files import SPACE_FILE, SPACE_JSON, read_space, write_space
from w2w_registry.services.recording.spaces import open_space, store_space
from w2w_registry.services.recording.versions import Activity, Input, record_operation
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.spaces.calibrated import fit_calibrated
from w2w_registry.services.spaces.fitset import Member, in_common_gauge, read_fit_set
from w2w_registry.services.spaces.members import enough_people, hold_space, only_allowed
from w2w_registry.services.spaces.public_release import Release, read_w2w_release
from w2w_registry.services.spaces.release_points import add_points
from w2w_registry.services.spaces.showing import SpaceShown, show_space
from w2w_registry.services.spaces.spool import spooled
from w2w_registry.space.basis import WeightSpace


@dataclass(frozen=True, eq=False)
class SpaceFitted(SpaceShown):
    """A space that was fitted, how exactly (``space.fit.FitReport``), what to know about it, and of how many repeats it
    was learned how one person's trainings differ in what they draw (None: of none)."""

    exactness: Mapping[str, Any]
    warnings: list[str]
    behaviour: Mapping[str, int] | None = None


@dataclass(frozen=True, eq=False)
class SpaceImported(SpaceShown):
    """A space that was brought in, what to know about it, and where its own people were asked for how many of them were
    added and refused (else None)."""

    notes: list[str]
    identities_added: int | None = None
    identities_refused: int | None = None


def fit_space(
    registry: Registry,
    name: str,
    paths: Sequence[str],
    *,
    base_model: str,
    revision: str | None = None,
    components: int | None = None,
    repeats: str | None = None,
    force: bool = False,
    device: str = "cpu",
    progress: Progress = no_progress,
    ray: str | None = None,
) -> SpaceFitted:
    """Fit the next version of space ``name`` and register it.

    Args:
        components: k to keep; None = as many as the LoRAs support, at most 1,000.
        repeats: second LoRAs of the same identities under the same names; the metric then learns from them.
        force: fit LoRAs that share no start all the same, in raw gauge.
        device: what to compute on, ``cpu`` or a torch device.
        ray: a Ray cluster whose machines read, check and hash the files; None does it here.

    Raises:
        BadLora, UsageError: no usable fit set, or one without a common start; no cluster there. BadName: an illegal
            name. MissingExtra: Ray is not installed.
    """
    name = check_name(name, "space")
    started = now()
    under = registry.settings.temporary_dir
    with ExitStack() as stack:
        spool = stack.enter_context(spooled(under, paths, base_model))
        read = read_fit_set(spool, paths, base_model, progress, ray=ray)
        fit_set = only_allowed(registry, in_common_gauge(read, force=force), base_model)
        few = enough_people(registry, fit_set)
        again = None
        if repeats:
            spool = stack.enter_context(spooled(under, [repeats], base_model))
            again = read_fit_set(spool, [repeats], base_model, ray=ray)
        found = fit_calibrated(fit_set, base_model, revision, components, again, device)
        inputs = [Input("lora", InputKind.FILE, digest=m.sha256, ref=m.name) for m in fit_set.members]
        activity = Activity(
            "fit",
            started,
            params={"components": found.space.k, "repeats": None if again is None else len(again.members)},
            inputs=inputs,
            models={"base": f"{base_model}@{revision}" if revision else base_model},
        )
        row = register_space(registry, name, found.space, activity, fit_set.members, found.newcomers)
    warnings = [f"left out: {error.fields.get('path')}: {error.fields.get('reason')}" for error in fit_set.skipped]
    warnings += [] if few is None else [few]
    warnings += is_another(name, row)
    if found.space.gauge == "raw":
        warnings.append("the LoRAs were trained from different starts: coordinates in this space mean little")
    if found.space.calibration is None:
        warnings.append(f"{len(fit_set.members)} LoRAs are too few to calibrate what score means the same identity")
    return SpaceFitted(**show_space(registry, row), exactness=asdict(found.report), warnings=warnings)


def register_space(
    registry: Registry,
    name: str,
    space: WeightSpace,
    activity: Activity,
    members: Sequence[Member] = (),
    newcomers: Mapping[str, Any] | None = None,
    parent_id: int | None = None,
) -> str:
    """Store the arrays and add the row, its operation and its members, with one event; returns ``name@number``.

    ``newcomers``: what new LoRAs of it look like (``calibrated.Calibrated``).

    A space whose digest is in the catalog already is not added again: it is the one returned (``is_another``).
    """
    artifact = store_space(registry.artifacts, space)
    with registry.catalog.write(registry.actor) as uow:
        known = space_with_digest(uow.session, space.digest)
        if known is not None:
            return known.ref
        number = next_space_number(uow.session, name)
        row = Space(
            name=name,
            number=number,
            digest=space.digest,
            base_model=space.base_model,
            base_revision=space.base_revision,
            layout_digest=space.layout.digest,
            layout=space.layout.to_json(),
            dim=space.dim,
            rank=space.layout.rank,
            alpha=space.layout.alpha,
            components=space.k,
            artifact_digest=artifact,
            fit_set_digest=space.fit_set_digest or None,
            fit_size=space.fit_size or None,
            metric={} if space.metric is None else space.metric.to_json(),
            calibration={
                **({} if space.calibration is None else space.calibration.to_json()),
                **(newcomers or {}),
            },
            explained_variance=[float(v) for v in space.explained_variance_ratio] or None,
            software=dict(space.software),
            parent_id=parent_id,
            operation=record_operation(uow, activity),
            created=uow.now(),
        )
        uow.add(row)
        _add_members(uow, row, members)
        uow.event("space.add", {"space": row.id, "operation": row.operation_id}, digest=space.digest)
        return row.ref


def is_another(name: str, ref: str) -> tuple[str, ...]:
    """What to say when a space that was to be called ``name`` is there under another name, ``ref``."""
    if ref.partition("@")[0] == name:
        return ()
    return (f"no space named {name} was made; the same space is registered as {ref}",)


def _add_members(uow: UnitOfWork, row: Space, members: Sequence[Member]) -> None:
    uow.bulk_insert(
        SpaceMember,
        [
            {"space_id": row.id, "position": position, "model_digest": member.model_digest, "name": member.name}
            for position, member in enumerate(members)
        ],
    )


@dataclass(frozen=True, eq=False)
class SpaceExported(Result):
    """A space that was written into a folder."""

    space: str
    digest: str
    folder: str


def export_space(registry: Registry, ref: str, out: str, *, force: bool = False) -> SpaceExported:
    """Write a space as safetensors + json into folder ``out``.

    Raises:
        OutputExists, OutputInHome: see ``check_outputs``; ``force`` replaces files that exist. StorageError.
    """
    check_outputs(registry, *(Path(out) / name for name in (SPACE_FILE, SPACE_JSON)), force=force)
    row, space = open_space(registry, ref)
    gate.require(registry, Use.EXPORT, spaces=[row.id])
    hold_space(registry, space, row.ref)
    write_space(out, space)
    return SpaceExported(space=row.ref, digest=space.digest, folder=str(Path(out)))


def import_space(
    registry: Registry,
    name: str,
    path: str,
    *,
    components: int | None = None,
    base_model: str | None = None,
    identities: bool = False,
    progress: Progress = no_progress,
    origin: Input | None = None,
) -> SpaceImported:
    """Register a space from an exported folder or file, or from the public weights2weights release.

    Args:
        components: keep only this many of the first; a cut space has its own digest and no calibration.
        identities: also add the release's own points, as identities ``name/0``, ``name/1``… with their labels.
        origin: where a folder that was fetched comes from.

    Raises:
        BadFile, IntegrityError: not a space, or not the one that was written. UsageError: too many components.
        NoPoints: identities are asked for and the files hold none; nothing was registered.
        ConsentDenied: the policy does not let people of unknown consent be registered.
    """
    name = check_name(name, "space")
    started = now()
    space, release = _read_space(path, components, base_model)
    if identities and (release is None or release.coordinates is None):
        raise NoPoints(path=path)
    if identities:
        gate.require(registry, Use.REGISTER, kind=Kind.PERSON)
    hold_space(registry, space, Path(path).name)
    activity = Activity(
        "import-space",
        started,
        params={"components": space.k, "source": "release" if release else "export"},
        inputs=[origin or Input("space", InputKind.SPACE, digest=space.digest, ref=Path(path).name)],
    )
    ref = register_space(registry, name, space, activity)
    points = None
    if identities and release is not None and release.coordinates is not None:
        points = add_points(registry, ref, name, space, release.coordinates, release.labels, progress)
    shown = show_space(registry, ref)
    notes = [*(release.notes if release else ()), *is_another(name, ref)]
    if points is not None and points.refused:
        notes.append(f"{points.refused} of its identities draw somebody who refused, and were left out")
    if points is not None and points.unseen is not None:
        notes.append(f"its identities were compared with people who refused by their weights alone: {points.unseen}")
    added, refused = (None, None) if points is None else (points.added, points.refused)
    return SpaceImported(**shown, notes=notes, identities_added=added, identities_refused=refused)


def _read_space(path: str, components: int | None, base_model: str | None) -> tuple[WeightSpace, Release | None]:
    folder = Path(path)
    if (folder / "mean.pt").exists():
        release = read_w2w_release(folder, components, base_model=base_model)
        return release.space, release
    if folder.is_dir() and not (folder / SPACE_FILE).exists():
        raise BadFile(
            path=path,
            reason="no weight space in it",
            hint=f"a folder of `space export` holds {SPACE_FILE}, the public release mean.pt, std.pt, V.pt and "
            "weight_dimensions.pt",
        )
    space = read_space(folder)
    return (space if components in (None, space.k) else space.truncated(components)), None
