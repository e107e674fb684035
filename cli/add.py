"""``w2w-reg add``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say, warn, warn_unmatched

if TYPE_CHECKING:
    from w2w_registry.errors import RegistryError
    from w2w_registry.services.identities.items import AddRequest, Item, Skipped
    from w2w_registry.services.identities.planned import Group, Intake, Plan
    from w2w_registry.services.registry import Progress

_SHOWN = 5
_LISTED = 10


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--space", metavar="NAME[@V]", help="Weight space to place them in (default: one that fits).")
@click.option("--name", help="Identity name (one PATH only; default: the distinctive part of its file or folder name).")
@options.prefix
@options.kind
@options.subjects
@options.labels
@click.option(
    "--labels",
    "labels_csv",
    type=click.Path(dir_okay=False),
    help="CSV file with a row per name and a column per label.",
)
@click.option("--base-model", metavar="ID", help="Base model, for files that do not name theirs.")
@options.needing(
    "subjects",
    click.option(
        "--evidence",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Proof that models already registered depict --subject; its digest is kept.",
    ),
)
@options.seen_with
@click.option("--yes", is_flag=True, help="Create the registry and fit weight spaces where needed, without asking.")
@click.option(
    "--translate", is_flag=True, help="Compute coordinates from what each adapter draws, whatever its weights."
)
@options.dry_run
@takes_frame
def add(
    frame: Frame,
    paths: tuple[str, ...],
    space: str | None,
    name: str | None,
    prefix: str,
    kind: str,
    subjects: tuple[str, ...],
    labels: tuple[str, ...],
    labels_csv: str | None,
    base_model: str | None,
    evidence: Path | None,
    yes: bool,
    translate: bool,
    pipeline: str | None,
    dry_run: bool,
) -> int:
    """Add adapters (LoRA, LyCORIS, DoRA…): files, folders or globs.

    Prints what it finds and what it would do. With --yes, or "y" at a terminal, it creates the registry if there is
    none, fits a weight space for every group of LoRAs that is large enough, and registers everything: in a space that
    fits, or, if none does, as a plain file. A model that is registered already is "already there", even if it was
    re-saved in another format or dtype; labels and a --subject given with it are added (to say whom a registered model
    depicts takes two people who agree, or --evidence). Files that cannot be used are listed with the reason, and the
    others are added all the same (exit 5 says that some were not). With --translate, adapters whose weights fit no
    space (another rank, initialisation or tool, DoRA, text encoders) are placed in one by their behaviour: they can
    then be edited, mixed, and exported from their coordinates. The file itself is kept.
    """
    from w2w_registry.services.consent.grants import evidence_digest
    from w2w_registry.services.identities.items import AddRequest
    from w2w_registry.services.recording.labels import parse_labels

    request = AddRequest(
        paths=paths,
        space=space,
        name=name,
        prefix=prefix,
        kind=None if click.get_current_context().get_parameter_source("kind") is ParameterSource.DEFAULT else kind,
        subjects=subjects,
        labels=parse_labels(labels),
        labels_csv=labels_csv,
        base_model=base_model,
        evidence=None if evidence is None else evidence_digest(evidence),
        dry_run=dry_run,
        pipeline=pipeline,
    )
    if translate:
        return _translated(frame, request, pipeline)
    if space is not None:
        return _into(frame, request)
    return _wherever(frame, request, yes=yes)


def _wherever(frame: Frame, request: AddRequest, *, yes: bool) -> int:
    """Look at everything, say or ask what would be done with it, and do it: no space was named."""
    from w2w_registry.services.identities import foreseeing, intake

    there = _is_there(frame)
    with _stages("looking through the folders") as stage:
        found = intake.survey(request, stage("reading"), stage("looking through the folders"))
    asks = sys.stdin.isatty() and not frame.json
    with progress("planning"):
        fit = yes or request.dry_run or asks or not there
        planned = intake.plan(frame.registry() if there else None, found, fit=fit)
    if request.dry_run:
        if there:
            planned = foreseeing.asked(frame.registry(), request, planned)
        emit(frame, planned.to_json(), lambda: _show_plan(planned))
        return 0
    if (planned.init or planned.fits) and not yes:
        _ask(frame, planned, asks)
    if planned.init:
        from w2w_registry.services.registry import init_registry

        init_registry(frame.settings())
    with _stages("adding") as stage:
        done = intake.perform(
            frame.registry(), request, planned, stage("adding"), lambda space: stage(f"fitting {space}")
        )
    emit(frame, _result(done), lambda: _show(done))
    return done.exit_code


@contextmanager
def _stages(first: str) -> Iterator[Callable[[str], Progress]]:
    """One bar for several kinds of work: a progress callback of each, by the words that name it."""
    at = first

    def stage(words: str) -> Progress:
        def step(done: int, total: int) -> None:
            nonlocal at
            at = words
            tick(done, total)

        return step

    with progress("", lambda: at) as tick:
        tick(0, 0)
        yield stage


def _is_there(frame: Frame) -> bool:
    from w2w_registry.services.registry import current_schema

    return current_schema(frame.settings()).schema is not None


def _ask(frame: Frame, planned: Plan, asks: bool) -> None:
    from w2w_registry.errors import NotInitialised

    if asks:
        _show_plan(planned)
        click.confirm("Do this?", default=True, abort=True, err=True)
    elif planned.init:
        raise NotInitialised(home=str(frame.settings().home))


def _into(frame: Frame, request: AddRequest) -> int:
    """Into the one space that was named."""
    from w2w_registry.services.identities import ingest, intake

    with progress("adding") as tick:
        done = intake.into(frame.registry(), request, ingest.add, tick)
    emit(frame, _result(done), lambda: _show(done, request.dry_run))
    return done.exit_code


def _translated(frame: Frame, request: AddRequest, pipeline: str | None) -> int:
    """Into one space, by behaviour."""
    from w2w_registry.services.identities import intake, translated

    with progress("translating") as tick:
        done = intake.into(
            frame.registry(), request, lambda r, q, tick: translated.add(r, q, pipeline, progress=tick), tick
        )
    emit(frame, _result(done), lambda: _show(done, request.dry_run))
    return done.exit_code


def _result(done: Intake) -> dict[str, Any]:
    from w2w_registry.messages import message
    from w2w_registry.services.identities.outcome import lists

    rows = []
    for item in done.items:
        row = item.to_json()
        if item.error is not None:
            row["error"] = message(item.error)
        rows.append(row)
    return {
        **lists(done.items, done.skipped),
        "spaces": list(done.spaces),
        "space": done.spaces[0] if len(done.spaces) == 1 else None,
        "fitted": list(done.fitted),
        "not_fitted": {space: message(error) for space, error in done.unfitted.items()},
        "unmatched_labels": list(done.unmatched),
        "identities": rows,
    }


# -- for people -------------------------------------------------------------------------------------
def _show_plan(planned: Plan) -> None:
    if planned.init:
        say("There is no registry yet; one would be created.")
    for group in planned.groups:
        say(_group_line(group))
    _unfitted(planned.unfitted)
    _failures(list(planned.survey.failed), "cannot be used")
    _failures(list(planned.refused), "would be refused")
    _warnings(planned.items)
    warn_unmatched(planned.survey.unmatched, "file")
    _skipped(planned.survey.skipped)
    held = f" ({planned.held} of them held)" if planned.held else ""
    refused = f"{len(planned.refused)} would be refused, " if planned.refused else ""
    note(
        f"{planned.added} would be added{held}, {planned.existing} already there or twice, {refused}"
        f"{len(planned.survey.failed)} failed, {len(planned.survey.skipped)} skipped"
    )


def _group_line(group: Group) -> str:
    facts = group.to_json()
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["kinds"].items())
    ranks = f", rank {'/'.join(map(str, facts['ranks']))}" if facts["ranks"] else ""
    hints = f" (hints: {', '.join(facts['base_hints'][:3])})" if facts["base_hints"] else ""
    base = group.base_model or f"{_of(facts['parts'])}base model not named{hints}"
    where = f"fit space {group.space}" if group.fit else f"space {group.space}" if group.space else "in no weight space"
    return f"{kinds}{ranks}, {base}: {where}"


_PARTS = {"unet": "a UNet", "transformer": "a transformer", "model": "a model not known"}


def _of(parts: list[str]) -> str:
    """What they change, where nothing says of which base model it is."""
    return f"of {_PARTS.get(parts[0], f'the {parts[0]}')}, " if len(parts) == 1 else ""


def _show(done: Intake, dry_run: bool = False) -> None:
    verb = "would add" if dry_run else "added"
    new = [item for item in done.items if item.status == "added"]
    old = [item for item in done.items if item.status == "existing"]
    for item in new if len(new) <= _LISTED else []:
        residual = "" if item.residual is None else f"  residual {item.residual:.3f}"
        say(f"{verb}  {item.identity}@{item.version}{residual}")
    for item in old if len(old) <= _LISTED else []:
        how = f"  ({item.same_model})" if item.same_model else ""
        changed = f"  updated: {_first(item.updated)}" if item.updated else ""
        say(f"already there  {item.identity}@{item.version}  {item.path}{how}{changed}")
    relabelled = sum(bool(item.updated) for item in old)
    if len(old) > _LISTED and relabelled:
        note(f"labels or subjects were updated on {relabelled} of those already there (--json lists them)")
    _warnings(done.items)
    warn_unmatched(done.unmatched, "file")
    _unfitted(done.unfitted)
    _failures([item for item in done.items if item.error is not None])
    _skipped(done.skipped)
    note(
        f"{len(new)} {'would be ' if dry_run else ''}added{_where(done, new)}, {len(old)} already there, "
        f"{sum(item.error is not None for item in done.items)} failed, {len(done.skipped)} skipped"
    )
    if done.fitted:
        note(f"fitted {', '.join(done.fitted)}: one space for each base model, rank and set of layers")
    unplaced = sum(item.residual is None for item in new)
    if unplaced and not dry_run and not done.unfitted:
        from w2w_registry.services.identities.planning import ENOUGH

        note(
            f"Fitting a space takes {ENOUGH} LoRAs of one base model, rank and set of layers. "
            "Adapters in no space can still be listed, compared and exported."
        )
    if new and not dry_run:
        placed = next((item for item in new if item.residual is not None), None)
        note(f"Next: w2w-reg {f'show {new[0].identity}' if placed is None else f'search {placed.identity}'}")


def _where(done: Intake, new: Sequence[Item]) -> str:
    """Where what was added went: in which space, in how many, in none."""
    if not new or not done.spaces:
        return ""
    spaces = f"space {done.spaces[0]}" if len(done.spaces) == 1 else f"{len(done.spaces)} spaces"
    placed = sum(item.residual is not None for item in new)
    if placed == len(new):
        return f" (all in {spaces})"
    return f" ({placed} in {spaces}, {len(new) - placed} in none)" if placed else " (in no space)"


def _first(names: Sequence[str]) -> str:
    """The names, or how many and the first of them."""
    return ", ".join(names) if len(names) <= _SHOWN else f"{len(names)} labels ({', '.join(names[:3])}, …)"


def _unfitted(spaces: Mapping[str, RegistryError]) -> None:
    for space, error in spaces.items():
        reason = str(error.fields.get("reason") or error)
        warn(f"space {space} was not fitted: {reason}; to fit one of some of them: `w2w-reg space fit NAME PATH…`")


def _failures(items: list[Item], word: str = "failed") -> None:
    from w2w_registry.messages import message
    from w2w_registry.services.identities.outcome import failure

    if len(items) <= _SHOWN:
        for item in items:
            if item.error is not None:
                warn(message(item.error))
        return
    rows = [failure(item) for item in items]
    _causes([(f"{row['reason']}; {row['cure']}" if row["cure"] else row["reason"], row["path"]) for row in rows], word)


def _skipped(files: Sequence[Skipped]) -> None:
    _causes([(f"{one.reason}; {one.cure}" if one.cure else one.reason, str(one.path)) for one in files], "skipped")


def _causes(pairs: list[tuple[str, str]], word: str) -> None:
    """Files grouped by cause, the commonest first, each with an example."""
    from w2w_registry.services.identities.outcome import cause

    kinds: dict[str, list[tuple[str, str]]] = {}
    for reason, path in pairs:
        kinds.setdefault(cause(reason), []).append((reason, path))
    ordered = sorted(kinds.values(), key=len, reverse=True)
    for same in ordered[:_SHOWN]:
        reason, path = same[0]
        warn(f"{len(same)} {word}: {reason}  (such as {path})")
    if len(ordered) > _SHOWN:
        rest = sum(len(same) for same in ordered[_SHOWN:])
        reasons = "another reason" if len(ordered) == _SHOWN + 1 else f"{len(ordered) - _SHOWN} other reasons"
        warn(f"{rest} more {word}, for {reasons} (--json lists all files)")


def _warnings(items: Sequence[Item]) -> None:
    """What is to be said of the files, the gravest first; what is said of many is said once and counted."""
    from w2w_registry.records import rank_of

    said = [(str(item.identity), text) for item in items for text in item.warnings]
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, text in sorted(said, key=lambda pair: rank_of(pair[1])):
        kinds.setdefault(re.sub(r"\d[\d.]*", "#", text), []).append((name, text))
    for same in list(kinds.values())[:_SHOWN]:
        (name, text), who = same[0], {name for name, _ in same}
        if len(who) > 1:
            warn(f"{len(who)} identities, such as {name}: {text}")
        else:
            warn(f"{name}: {text}" + (f" ({len(same) - 1} more like this; --json lists all)" if len(same) > 1 else ""))
    rest = sum(len(same) for same in list(kinds.values())[_SHOWN:])
    if rest:
        warn(f"… {rest} more warning{'s'[: rest > 1]} (--json lists all)")
