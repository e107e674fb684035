"""The weights sketch of a version: how the same model is found under other factors, ranks, files and spaces."""

import sqlalchemy as sa
from alembic import op

from w2w_registry.migrations.restating import drop

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "weights_sketch",
        sa.Column("version_id", BIGINT, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("norm", sa.Double(), nullable=False),
        sa.Column("key_a", sa.Double(), nullable=False),
        sa.Column("key_b", sa.Double(), nullable=False),
        sa.Column("key_c", sa.Double(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", name="pk_weights_sketch"),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name="fk_weights_sketch_version_id_version"),
    )
    op.create_index("ix_weights_sketch_key_a", "weights_sketch", ["key_a"])


def downgrade() -> None:
    op.drop_index("ix_weights_sketch_key_a", "weights_sketch")
    drop("weights_sketch", revision)
