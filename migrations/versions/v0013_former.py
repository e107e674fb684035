"""What labels, tags and states were before they changed."""

import sqlalchemy as sa
from alembic import op

from w2w_registry.migrations.restating import drop

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
OWNERS = ("version", "identity", "release", "subject")


def upgrade() -> None:
    op.create_table(
        "former",
        sa.Column("id", BIGINT, nullable=False),
        *(sa.Column(f"{owner}_id", BIGINT, nullable=True) for owner in OWNERS[:3]),
        sa.Column("subject_id", WORDS, nullable=True),
        sa.Column("what", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("text", WORDS, nullable=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_former"),
        *(
            sa.ForeignKeyConstraint([f"{owner}_id"], [f"{owner}.id"], name=f"fk_former_{owner}_id_{owner}")
            for owner in OWNERS
        ),
        sqlite_autoincrement=True,
    )
    for owner in OWNERS:
        op.create_index(f"ix_former_{owner}_id", "former", [f"{owner}_id"])


def downgrade() -> None:
    """What it holds is lost, and the log says so; what labels, tags and states are is not touched."""
    for owner in reversed(OWNERS):
        op.drop_index(f"ix_former_{owner}_id", "former")
    drop("former", revision)
