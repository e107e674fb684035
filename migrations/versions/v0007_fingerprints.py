"""Fingerprints of versions, and what repeats taught about comparing them."""

import sqlalchemy as sa
from alembic import op

from w2w_registry.migrations.restating import drop

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
HEX = sa.String(64)


def upgrade() -> None:
    op.create_table(
        "fingerprint",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("version_id", BIGINT, nullable=False),
        sa.Column("base", HEX, nullable=False),
        sa.Column("question", WORDS, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fingerprint"),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name="fk_fingerprint_version_id_version"),
        sa.UniqueConstraint("version_id", "base", "question", name="uq_fingerprint_version_id_base_question"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_fingerprint_base_question", "fingerprint", ["base", "question"])
    op.create_table(
        "verdict_calibration",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("base", HEX, nullable=False),
        sa.Column("question", WORDS, nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("people", sa.Integer(), nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_verdict_calibration"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_verdict_calibration_base_question", "verdict_calibration", ["base", "question"])


def downgrade() -> None:
    op.drop_index("ix_verdict_calibration_base_question", "verdict_calibration")
    drop("verdict_calibration", revision)
    op.drop_index("ix_fingerprint_base_question", "fingerprint")
    drop("fingerprint", revision)
