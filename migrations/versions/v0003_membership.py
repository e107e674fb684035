"""Who a space was fitted with is told by its members' model digests alone; indices that hot queries lacked."""

import sqlalchemy as sa
from alembic import op

from w2w_registry.migrations.restating import restated

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")

AFTER = {
    "space_id": sa.BigInteger(),
    "position": sa.Integer(),
    "model_digest": sa.String(),
    "name": sa.String(),
    "salt": sa.String(),
}
BEFORE = {**AFTER, "subject_id": sa.String(), "version_id": sa.BigInteger()}

INDICES = (
    ("ix_version_space_id_state", "version", ["space_id", "state"]),
    ("ix_version_artifact_digest", "version", ["artifact_digest"]),
    ("ix_version_preview_digest", "version", ["preview_digest"]),
    ("ix_version_manifest_digest", "version", ["manifest_digest"]),
    ("ix_label_name_number", "label", ["name", "number"]),
    ("ix_tag_key_value", "tag", ["key", "value"]),
    ("ix_takedown_withdrawal_id", "takedown", ["withdrawal_id"]),
    ("ix_consent_record_supersedes", "consent_record", ["supersedes"]),
    ("ix_consent_record_evidence_digest", "consent_record", ["evidence_digest"]),
)


def upgrade() -> None:
    with restated(op.get_bind(), "space_member", ["space_id", "position"], BEFORE, AFTER, "0003"):
        op.drop_index("ix_space_member_subject_id", "space_member")
        op.drop_index("ix_space_member_version_id", "space_member")
        with op.batch_alter_table("space_member") as batch:
            batch.drop_constraint("fk_space_member_subject_id_subject", type_="foreignkey")
            batch.drop_constraint("fk_space_member_version_id_version", type_="foreignkey")
            batch.drop_column("subject_id")
            batch.drop_column("version_id")
    for name, table, columns in INDICES:
        op.create_index(name, table, columns, unique=False)


def downgrade() -> None:
    for name, table, _ in reversed(INDICES):
        op.drop_index(name, table)
    with restated(op.get_bind(), "space_member", ["space_id", "position"], AFTER, BEFORE, "0002"):
        with op.batch_alter_table("space_member") as batch:
            batch.add_column(sa.Column("subject_id", WORDS, nullable=True))
            batch.add_column(sa.Column("version_id", BIGINT, nullable=True))
            batch.create_foreign_key("fk_space_member_subject_id_subject", "subject", ["subject_id"], ["id"])
            batch.create_foreign_key("fk_space_member_version_id_version", "version", ["version_id"], ["id"])
        op.create_index("ix_space_member_subject_id", "space_member", ["subject_id"], unique=False)
        op.create_index("ix_space_member_version_id", "space_member", ["version_id"], unique=False)
        # as the fit would have found them: the model's version, and whom it depicts
        op.execute(
            "UPDATE space_member SET version_id = (SELECT max(version.id) FROM version"
            " WHERE version.model_digest = space_member.model_digest)"
        )
        op.execute(
            "UPDATE space_member SET subject_id = (SELECT max(version_subject.subject_id) FROM version_subject"
            " WHERE version_subject.version_id = space_member.version_id)"
        )
