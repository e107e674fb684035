"""Weight spaces to and from the Hub: ``push-space``, and the folder behind ``space import hf://owner/repo[@rev]``.

A space is published as ``space export`` writes it. Components too large for one comfortable file are split by rows
into shards, each a safetensors file of its own, and put together again on the way in; the space's digest over all
arrays says whether that succeeded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from w2w_registry.artifacts import temporary_folder
from w2w_registry.catalog.models import InputKind
from w2w_registry.catalog.publications import record_release
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadFile, NotFound
from w2w_registry.hub import bundle
from w2w_registry.hub.addresses import address_of, check_repo_id, is_oci, parse_repo
from w2w_registry.hub.api import Content, Digests, Hub
from w2w_registry.hub.card import SpaceFacts, space_card
from w2w_registry.hub.plan import Access, PushPlan, choose_access, plan_push
from w2w_registry.records import digest_of
from w2w_registry.services.consent import gate
from w2w_registry.services.hub.carry_out import carry_out, look
from w2w_registry.services.recording.space_files import SPACE_FILE, SPACE_JSON, write_space
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.recording.versions import Input
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.services.spaces.members import hold_space
from w2w_registry.space.basis import WeightSpace

SHARD = 1 << 30
SPECTRUM = "spectrum.svg"


@dataclass(frozen=True)
class SpacePush:
    """What pushing a space did, or (``commit`` None) would do."""

    space: str
    repo_id: str
    access: Access
    plan: PushPlan
    commit: str | None = None
    tag: str | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "repo": self.repo_id,
            "access": str(self.access),
            "commit": self.commit,
            "tag": self.tag,
            "changed": not self.plan.empty,
            "plan": self.plan.lines(),
            "warnings": list(self.warnings),
        }


def push_space(
    registry: Registry,
    hub: Hub,
    ref: str,
    repo: str,
    *,
    access: Access = Access.PRIVATE,
    license: str = "other",
    dry_run: bool = False,
    shard: int = SHARD,
    progress: Progress = no_progress,
) -> SpacePush:
    """Publish a weight space. A space says something about everybody it was fitted on, so it is private unless asked;
    subjects of its fit set who withdrew do not let it out: refit it without them.

    Raises:
        NotFound: no such space. ConsentDenied, HubError, Conflict: as ``push``.
    """
    repo_id = check_repo_id(repo)
    access = choose_access(likeness=False, asked=access, oci=is_oci(repo_id))
    row, space = open_space(registry, ref)
    decision = gate.require(registry, Use.PUBLISH, spaces=[row.id])
    hold_space(registry, space, row.ref)
    with temporary_folder(registry.settings.temporary_dir) as folder:
        files = _files(folder, space, shard)
        plot = spectrum_svg([float(v) for v in space.explained_variance_ratio])
        if plot is not None:
            files[SPECTRUM] = plot.encode()
        files[bundle.CARD] = space_card(
            SpaceFacts(
                repo_id=repo_id,
                name=row.ref,
                digest=space.digest,
                base_model=space.base_model,
                base_revision=space.base_revision,
                dim=space.dim,
                components=space.k,
                rank=space.layout.rank,
                alpha=float(space.layout.alpha),
                fit_size=space.fit_size or None,
                spectrum=[float(v) for v in space.explained_variance_ratio],
                license=license,
                plot=None if plot is None else SPECTRUM,
            )
        ).encode()
        state = look(hub, repo_id)
        plan = plan_push(repo_id, state, files, access)
        report = SpacePush(row.ref, plan.repo_id, access, plan, warnings=tuple(str(w) for w in decision.warnings))
        if dry_run:
            return report
        commit, tag = carry_out(hub, plan, files, row.number, progress)
        digests = {path: Digests.of(content).sha256 for path, content in sorted(files.items())}
    _record(registry, hub, row.id, plan.repo_id, commit, tag, access, digests)
    return SpacePush(row.ref, plan.repo_id, access, plan, commit, tag, report.warnings)


@contextmanager
def fetched_space(
    hub: Hub, uri: str, progress: Progress = no_progress, *, scratch: Path | None = None
) -> Iterator[tuple[Path, Input]]:
    """A local folder as ``space export`` writes it, from ``hf://owner/repo[@rev]``, gone when the block ends; and the
    repo as an input of the operation.

    Args:
        scratch: where temporary folders are made; None = where the system makes them.

    Raises:
        NotFound: no such repo, or no space in it. UnsafeRepo, BadFile: what is there is refused.
    """
    repo_id, revision = parse_repo(uri)
    state = hub.state(repo_id, revision)
    files = [f for f in state.files if f.path in (SPACE_FILE, SPACE_JSON) or _is_shard(f.path)]
    if not any(f.path == SPACE_FILE for f in files):
        raise NotFound(what="weight space in the Hub repo", name=state.repo_id)
    with temporary_folder(scratch) as folder:
        hub.download(state.repo_id, state.commit, files, folder, progress)
        shards = sorted(f.path for f in files if _is_shard(f.path))
        if shards:
            _join(folder, shards, address_of(state.repo_id))
        listing = sorted([f.path, f.sha256 or f.blob_id] for f in files)
        yield folder, Input("repo", InputKind.HUB, digest=digest_of(listing), ref=f"{state.repo_id}@{state.commit}")


def spectrum_svg(ratios: Sequence[float]) -> str | None:
    """The explained variance per component and in sum, as a small SVG drawing; None when it is not known."""
    if not ratios:
        return None
    width, height, left, top = 640.0, 280.0, 48.0, 16.0
    count, largest = len(ratios), max(ratios)
    sums = np.minimum(np.cumsum(ratios), 1.0)
    picks = sorted({round(i) for i in np.linspace(0, count - 1, min(count, 300))})

    def x(i: int) -> float:
        return left + width * (i / max(1, count - 1))

    def line(values: Sequence[float], scale: float) -> str:
        return " ".join(f"{x(i):.1f},{top + height * (1 - values[i] / scale):.1f}" for i in picks)

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 16:.0f} {top + height + 40:.0f}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>'
        f'<polyline fill="none" stroke="#c60" stroke-width="2" points="{line([float(r) for r in ratios], largest)}"/>'
        f'<polyline fill="none" stroke="#06c" stroke-width="2" points="{line([float(s) for s in sums], 1.0)}"/>'
        f'<text x="{left}" y="{top + height + 18}">1</text>'
        f'<text x="{left + width}" y="{top + height + 18}" text-anchor="end">{count} components</text>'
        f'<text x="{left - 6}" y="{top + 10}" text-anchor="end" fill="#06c">100%</text>'
        f'<text x="{left + width - 6}" y="{top + height - 8}" text-anchor="end" fill="#c60">'
        f"share of one component, largest {largest:.1%}</text>"
        f'<text x="{left + width - 6}" y="{top + 16}" text-anchor="end" fill="#06c">sum, {sums[-1]:.1%} in all</text>'
        "</svg>\n"
    )


# -- shards ------------------------------------------------------------------------------------
def _files(folder: Path, space: WeightSpace, shard: int) -> dict[str, Content]:
    """The space's files; components beyond ``shard`` bytes are cut by rows into files of about that size."""
    if 4 * space.dim * space.k <= shard:
        tensors, facts = write_space(folder, space)
        return {SPACE_FILE: tensors, SPACE_JSON: facts}
    from safetensors.numpy import save_file

    rows = max(1, shard // (4 * space.k))
    starts = list(range(0, space.dim, rows))
    files: dict[str, Content] = {}
    for number, start in enumerate(starts, start=1):
        path = folder / f"components-{number:05d}-of-{len(starts):05d}.safetensors"
        save_file({"components": np.ascontiguousarray(space.components[start : start + rows], np.float32)}, path)
        files[path.name] = path
    rest = {name: np.ascontiguousarray(a, np.float32) for name, a in space.arrays().items() if name != "components"}
    facts_text = json.dumps({"digest": space.digest, **space.facts()}, sort_keys=True)
    save_file(rest, folder / SPACE_FILE, metadata={"w2w_space_sharded": facts_text})
    (folder / SPACE_JSON).write_text(facts_text + "\n")
    return {**files, SPACE_FILE: folder / SPACE_FILE, SPACE_JSON: folder / SPACE_JSON}


def _is_shard(path: str) -> bool:
    return path.startswith("components-") and path.endswith(".safetensors") and "/" not in path


def _join(folder: Path, shards: Sequence[str], where: str) -> None:
    """Put a sharded space together, in ``folder``, in the one-file form.

    Raises:
        BadFile: the shards do not fit one another.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / SPACE_FILE, "np") as stream:
            facts = json.loads((stream.metadata() or {})["w2w_space_sharded"])
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        blocks = []
        for name in shards:
            with safe_open(folder / name, "np") as stream:
                blocks.append(stream.get_slice("components").get_shape())
        rows, k = sum(b[0] for b in blocks), blocks[0][1]
        if any(len(b) != 2 or b[1] != k for b in blocks):
            raise ValueError("shards of different widths")
        whole = np.memmap(folder / ".components", "<f4", "w+", shape=(rows, k))
        start = 0
        for name in shards:
            with safe_open(folder / name, "np") as stream:
                block = stream.get_tensor("components")
            whole[start : start + len(block)] = block
            start += len(block)
        space = WeightSpace.from_facts(facts, {**arrays, "components": whole})
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise BadFile(path=where, reason=f"a sharded weight space that does not fit together ({error})") from None
    write_space(folder, space)
    if space.digest != facts["digest"]:
        raise BadFile(path=where, reason="a sharded weight space whose digest does not match its contents")


# -- the row -----------------------------------------------------------------------------------
def _record(
    registry: Registry,
    hub: Hub,
    space_id: int,
    repo_id: str,
    commit: str,
    tag: str,
    access: Access,
    digests: Mapping[str, str],
) -> None:
    with registry.catalog.write(registry.actor) as uow:
        row = record_release(
            uow,
            endpoint=hub.endpoint,
            repo_id=repo_id,
            commit_id=commit,
            space_id=space_id,
            revision=tag,
            **access.words,
            format="space",
            digests=dict(digests),
        )
        uow.event("release.push", {"release": row.id, "space": space_id}, commit=commit)
