"""What a subject has to be told, from the registry's own settings where nobody typed it, and what is still missing."""

from __future__ import annotations

from dataclasses import replace

from w2w_registry.consent.receipt import WAY_TO_WITHDRAW
from w2w_registry.consent.records import Notice
from w2w_registry.services.registry import Registry


def completed(registry: Registry, notice: Notice | None) -> Notice:
    """A notice with the controller and the way to withdraw of ``[organisation]`` where it states none."""
    found, owner = notice or Notice(), registry.settings.organisation
    controller, contact = owner.get("controller") or owner.get("name"), owner.get("contact")
    if found.controllers is None and controller:
        found = replace(found, controllers=(str(controller),))
    if found.withdrawal_method is None and contact:
        found = replace(found, withdrawal_method=WAY_TO_WITHDRAW.format(contact=contact))
    return found


def missing(notice: Notice) -> list[str]:
    """What a consent cannot be informed without (ISO/IEC TS 27560, GDPR 7 and 13) and this notice does not state."""
    told = []
    if notice.notice is None:
        told.append("no notice is recorded: which document (id, URL or digest) told the subject what they agree to?")
    if notice.controllers is None:
        told.append("no controller is recorded: who is responsible? (controller under [organisation] in registry.toml)")
    if notice.withdrawal_method is None:
        told.append(
            "no way to withdraw that the subject can use is recorded (contact under [organisation] in registry.toml)"
        )
    return told
