"""Every table of the catalog, under one roof."""

from w2w_registry.catalog.assets import (
    Alias,
    AliasChange,
    Coordinates,
    Identity,
    Label,
    SourceFile,
    Tag,
    Version,
    VersionSubject,
)
from w2w_registry.catalog.base import Base, audited_models
from w2w_registry.catalog.event_log import ChainHead, Checkpoint, Event, Job
from w2w_registry.catalog.fingerprints import Fingerprint, SpaceFingerprint, VerdictCalibration
from w2w_registry.catalog.former import Former
from w2w_registry.catalog.holds import Hold
from w2w_registry.catalog.likeness import WeightsSketch
from w2w_registry.catalog.operations import InputKind, Operation, OperationInput
from w2w_registry.catalog.pictures import Picture, PictureVersion
from w2w_registry.catalog.policies import Policy
from w2w_registry.catalog.releases import Release, ReleaseState, Takedown, TakedownState
from w2w_registry.catalog.spaces import Direction, Space, SpaceMember, SpaceState
from w2w_registry.catalog.subjects import (
    ConsentEvent,
    ConsentEventType,
    ConsentRecord,
    GuardReference,
    Subject,
    SubjectState,
    Withdrawal,
)

__all__ = [
    "Alias",
    "AliasChange",
    "Base",
    "ChainHead",
    "Checkpoint",
    "ConsentEvent",
    "ConsentEventType",
    "ConsentRecord",
    "Coordinates",
    "Direction",
    "Event",
    "Fingerprint",
    "Former",
    "GuardReference",
    "Hold",
    "Identity",
    "InputKind",
    "Job",
    "Label",
    "Operation",
    "OperationInput",
    "Picture",
    "PictureVersion",
    "Policy",
    "Release",
    "ReleaseState",
    "SourceFile",
    "Space",
    "SpaceFingerprint",
    "SpaceMember",
    "SpaceState",
    "Subject",
    "SubjectState",
    "Tag",
    "Takedown",
    "TakedownState",
    "VerdictCalibration",
    "Version",
    "VersionSubject",
    "WeightsSketch",
    "Withdrawal",
    "audited_models",
]
