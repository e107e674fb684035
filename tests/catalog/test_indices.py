"""Hot queries use their indices, on both databases: asked of the planner itself."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text

from w2w_registry.catalog.models import ConsentRecord, Coordinates, Label, SpaceMember, Tag, Takedown, Version
from w2w_registry.catalog.session import Catalog
from w2w_registry.records import VersionState

HOT: dict[str, Any] = {
    "ix_version_space_id_state": select(Version.id).where(Version.space_id == 1, Version.state == VersionState.ACTIVE),
    "ix_version_artifact_digest": select(Version.id).where(Version.artifact_digest.in_(["a", "b"])),
    "ix_version_preview_digest": select(Version.id).where(Version.preview_digest.in_(["a", "b"])),
    "ix_version_manifest_digest": select(Version.id).where(Version.manifest_digest.in_(["a", "b"])),
    "ix_version_model_digest": select(Version.id).where(Version.model_digest.in_(["a", "b"])),
    "ix_version_changed_seq": select(Version.id).where(Version.changed_seq > 10),
    "ix_label_name_number": select(Label.version_id).where(Label.name == "beard", Label.number > 0.5),
    "ix_tag_key_value": select(Tag.identity_id).where(Tag.key == "team", Tag.value == "red"),
    "ix_takedown_withdrawal_id": select(Takedown.id).where(Takedown.withdrawal_id == "w"),
    "ix_consent_record_supersedes": select(ConsentRecord.id).where(ConsentRecord.supersedes == "r"),
    "ix_consent_record_evidence_digest": select(ConsentRecord.id).where(ConsentRecord.evidence_digest == "e"),
    "ix_space_member_model_digest": select(SpaceMember.space_id).where(SpaceMember.model_digest.in_(["a", "b"])),
    "ix_coordinates_version_id": select(Coordinates.space_id).where(Coordinates.version_id.in_([1, 2])),
}


@pytest.mark.parametrize("index", sorted(HOT))
def test_the_planner_uses_the_index(catalog: Catalog, index: str) -> None:
    with catalog.read() as session:
        connection = session.connection()
        sqlite = connection.dialect.name == "sqlite"
        if not sqlite:  # of an empty table it would read all; whether it could use the index is the question
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        query = HOT[index].compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        plan = connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{query}".replace("%", "%%"))
        assert index in "\n".join(str(row) for row in plan)
