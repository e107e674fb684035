"""A release of a registry like this one that has no point in a weight space: the file, its labels, its manifest and the
consents it was published under; placed as ``add`` would."""

from __future__ import annotations

from dataclasses import replace

from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.errors import IntegrityError
from w2w_registry.hub.adapter_release import AdapterDocument
from w2w_registry.hub.addresses import address_of
from w2w_registry.hub.api import Hub
from w2w_registry.lora import digests_of, read_adapter
from w2w_registry.records import canonical_json
from w2w_registry.services.consent.restore import owns, restore
from w2w_registry.services.hub import attesting
from w2w_registry.services.hub.pull_checks import kind_of
from w2w_registry.services.hub.pull_strangers import take_strangers
from w2w_registry.services.hub.pulling import Fetched, PullReport, PullRequest, know_release
from w2w_registry.services.identities.items import Item
from w2w_registry.services.registry import Registry


def take_adapter(
    registry: Registry, hub: Hub, request: PullRequest, fetched: Fetched, document: AdapterDocument
) -> PullReport:
    """Check the release and register it.

    Raises:
        As ``pull.pull``.
    """
    where = address_of(fetched.state.repo_id)
    assert fetched.lora is not None
    adapter = read_adapter(fetched.lora)
    digests = digests_of(adapter)
    if document.model_digest not in (*digests, adapter.digest):
        raise IntegrityError(what="model", name=where, expected=document.model_digest, found=digests[0])
    vouched, remarks = attesting.vouched(registry, fetched.folder, document, fetched.digests, where)
    mine = owns(hub, fetched.state.repo_id)
    restored = restore(registry, fetched.consent, fetched.state.repo_id, believed=vouched or mine)
    asked = replace(
        request,
        kind=str(kind_of(request, document.kind, where)),
        base_model=request.base_model or document.base_model,
        labels=document.labels,
        suggested=document.name,
    )

    def pulled(uow: UnitOfWork, item: Item) -> None:
        version = version_for(uow.session, f"{item.identity}@{item.version}", any_state=True)
        if mine:
            know_release(uow, hub, fetched, version)
        about = {"version": version.id, "operation": version.operation_id}
        uow.event("version.pull", about, status=item.status, commit=fetched.state.commit)

    if not request.dry_run:
        manifest = registry.artifacts.put(canonical_json(document.manifest).encode())
        with registry.catalog.read() as session:
            subjects = tuple(sorted({*request.subjects, *restored.depicts(session)}))
        # Written with the file, or not at all: of one that is refused nothing stays.
        asked = replace(asked, subjects=subjects, manifest=manifest, brings=restored.write, noted=pulled)
    report = take_strangers(registry, asked, fetched)
    consent = restored.state if request.dry_run else report.consent
    return replace(report, ours=True, consent=consent, warnings=(*restored.warnings, *remarks, *report.warnings))
