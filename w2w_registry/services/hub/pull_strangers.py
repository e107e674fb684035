"""A stranger's LoRA from the Hub: placed and registered as ``add`` would, under a name of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from w2w_registry.errors import RegistryError
from w2w_registry.hub.addresses import address_of
from w2w_registry.hub.api import RepoState
from w2w_registry.lora import Candidate, suggest_name
from w2w_registry.records import Kind, Rank, Told, check_name
from w2w_registry.services.hub.pull_checks import card_base, check_card
from w2w_registry.services.hub.pulling import Fetched, PullReport, PullRequest, consent_word
from w2w_registry.services.identities import ingest, intake
from w2w_registry.services.identities.items import AddRequest, Item
from w2w_registry.services.identities.planned import Plan
from w2w_registry.services.identities.unplaced import add_unplaced
from w2w_registry.services.recording.placement import same_model_id
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry


def take_strangers(registry: Registry, request: PullRequest, fetched: Fetched) -> PullReport:
    """Into the space that was named, else into one that fits, else into none, as ``add`` would.

    A name that was not said but comes from the repo makes it no version of an identity it is not known to be.
    """
    state, asked = fetched.state, _asked(request, fetched)
    assert asked.candidates is not None
    (candidate,) = asked.candidates
    space: str | None
    warnings: tuple[str, ...] = ()
    if request.space is not None:
        space = open_space(registry, request.space)[0].ref
        asked = replace(asked, base_model=request.base_model or card_base(state))
        said, planned = request.base_model, None
    else:
        asked, said, warnings, planned = _planned(registry, asked, fetched)
        space = planned.groups[0].space
    try:
        if space is not None:
            row, weights = open_space(registry, space)
            warnings += check_card(state, row.ref, weights, said)
            item = ingest.add(registry, replace(asked, space=space)).items[0]
        elif request.dry_run:
            status = "existing" if planned is not None and planned.existing else "added"
            item = Item(str(fetched.lora), status, candidate.name, 1)
        else:
            (item,) = add_unplaced(registry, asked, [candidate], {})
    except RegistryError as error:
        raise _named_after(error, state, fetched.folder) from None
    if item.error is not None:
        raise _named_after(item.error, state, fetched.folder)
    consent = "unknown"
    if item.version is not None and item.identity is not None and not request.dry_run:
        consent = consent_word(registry, item.identity, item.version)
    return PullReport(
        state.repo_id,
        state.commit,
        False,
        item.status,
        f"{item.identity}@{item.version}",
        space,
        item.residual,
        consent,
        (*warnings, *item.warnings),
    )


def _asked(request: PullRequest, fetched: Fetched) -> AddRequest:
    """What ``add`` would be asked for the one file that was fetched."""
    state = fetched.state
    assert fetched.lora is not None
    *_, owner, repo = ("", *state.repo_id.split("/"))
    # A repo called "lora" is known by its owner; a release of ours says its name.
    suggested = request.suggested or suggest_name(Path("/", owner, repo))
    candidate = Candidate(
        fetched.lora,
        check_name(request.name or suggested),
        said=request.name is not None,
        further=tuple(suggest_name(Path(x)) for x in (f"{owner}.{repo}", f"{owner}.{repo}-{state.commit[:7]}")),
    )
    return AddRequest(
        paths=[str(fetched.lora)],
        kind=str(Kind.parse(request.kind or str(Kind.PERSON))),
        subjects=request.subjects,
        base_model=request.base_model,
        dry_run=request.dry_run,
        origin=fetched.origin,
        labels=dict(request.labels),
        manifest=request.manifest,
        brings=request.brings,
        noted=request.noted,
        candidates=[candidate],
    )


def _planned(
    registry: Registry, asked: AddRequest, fetched: Fetched
) -> tuple[AddRequest, str | None, tuple[str, ...], Plan]:
    """The request with the base model that is meant, the one that was said for it, what is to be told of that, and
    where the file goes. The file is believed before the card."""
    found = intake.survey(asked)
    for item in found.failed:
        assert item.error is not None
        raise _named_after(item.error, fetched.state, fetched.folder)
    told: tuple[str, ...] = ()
    said, carded = asked.base_model or found.seen[0].base_model, card_base(fetched.state)
    if said is None and carded is not None:
        asked = replace(asked, base_model=carded)
        found = intake.survey(asked)
    elif said is not None and carded is not None and not same_model_id(said, carded):
        told = (Told(f"its card names {carded} as base model, its file {said}", Rank.CONTRADICTION),)
    return asked, said, told, intake.plan(registry, found, fit=False)


def _named_after(error: Any, state: RepoState, folder: Path) -> Any:
    """The error with the repo for a path: the temporary folder means nothing to anybody."""
    path = error.fields.get("path")
    if path is not None:
        error.fields["path"] = str(path).replace(str(folder), address_of(state.repo_id))
    return error
