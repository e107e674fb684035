"""A local Hugging Face Hub over real HTTP, for tests and for trying things by hand.

It speaks the part of the Hub's protocol that huggingface_hub 2.4, diffusers and PEFT use for model
repositories, so that those libraries run against it unpatched. State lives in memory. Faults (errors,
slow or cut connections, a killed client) are asked for through ``LocalHub.faults``.
"""

from tests.hub.local_hub.faults import Fault, FaultPlan, Seen
from tests.hub.local_hub.server import LocalHub
from tests.hub.local_hub.store import HubStore, Repo, Visibility

__all__ = ["Fault", "FaultPlan", "HubStore", "LocalHub", "Repo", "Seen", "Visibility"]
