"""What the models that weight spaces are made around make the base model predict."""

import sqlalchemy as sa
from alembic import op

from w2w_registry.migrations.restating import drop

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")
KEY = ("space_id", "part", "base", "question")


def upgrade() -> None:
    op.create_table(
        "space_fingerprint",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("space_id", BIGINT, nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("base", sa.String(64), nullable=False),
        sa.Column("question", WORDS, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_space_fingerprint"),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name="fk_space_fingerprint_space_id_space"),
        sa.UniqueConstraint(
            "space_id", "part", "base", "question", name="uq_space_fingerprint_space_id_part_base_question"
        ),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """They can be taken again (`w2w-reg fingerprint`); the log says that they went."""
    drop("space_fingerprint", revision)
