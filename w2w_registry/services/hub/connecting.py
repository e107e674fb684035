"""Which hub an address or an endpoint means: the Hub of this registry, or an OCI registry."""

from __future__ import annotations

from w2w_registry.hub import client
from w2w_registry.hub.addresses import OCI, is_oci, parse_repo, split_oci
from w2w_registry.hub.api import Hub
from w2w_registry.services.registry import Registry


def connect(registry: Registry, address: str | None = None) -> Hub:
    """The hub of ``address``: an OCI registry for ``oci://host/name``, else the Hub of this registry, which is
    ``HF_ENDPOINT``, else ``[hub] endpoint`` in registry.toml, else huggingface.co.

    Raises:
        BadName: an OCI address that is none.
    """
    if address is not None and is_oci(address):
        return _oci(split_oci(parse_repo(address)[0])[0])
    endpoint = registry.settings.hub.get("endpoint")
    return client.connect(str(endpoint) if endpoint else None)


def hub_at(hub: Hub, endpoint: str) -> Hub | None:
    """The hub at ``endpoint``: ``hub`` itself, an OCI registry, or None when ``hub`` is not the Hub that is meant."""
    if endpoint == hub.endpoint:
        return hub
    return _oci(endpoint.removeprefix(OCI)) if is_oci(endpoint) else None


def _oci(host: str) -> Hub:
    from w2w_registry.hub.oci import OciHub

    return OciHub(host)
