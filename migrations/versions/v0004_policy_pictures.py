"""The policy in the catalog, named by every event; pictures that left, by their marks."""

import sqlalchemy as sa
from alembic import op

from w2w_registry.errors import Conflict
from w2w_registry.migrations.restating import drop
from w2w_registry.records import counted

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
HEX = sa.String(64)


def upgrade() -> None:
    op.add_column("event", sa.Column("policy", HEX, nullable=True))
    op.create_table(
        "policy",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("digest", HEX, nullable=False),
        sa.Column("rules", WORDS, nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policy"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "picture",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("mark", BIGINT, nullable=True),
        sa.Column("digest", HEX, nullable=False),
        sa.Column("operation", WORDS, nullable=False),
        sa.Column("seed", BIGINT, nullable=True),
        sa.Column("event_seq", BIGINT, nullable=False),
        sa.Column("made", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_picture"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_picture_mark", "picture", ["mark"])
    op.create_index("ix_picture_digest", "picture", ["digest"])
    op.create_table(
        "picture_version",
        sa.Column("picture_id", BIGINT, nullable=False),
        sa.Column("version_id", BIGINT, nullable=False),
        sa.ForeignKeyConstraint(["picture_id"], ["picture.id"], name="fk_picture_version_picture_id_picture"),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name="fk_picture_version_version_id_version"),
        sa.PrimaryKeyConstraint("picture_id", "version_id", name="pk_picture_version"),
    )
    op.create_index("ix_picture_version_version_id", "picture_version", ["version_id"])


def downgrade() -> None:
    """Events that name the policy they followed cannot be verified without it, here or ever after: while there are any,
    this refuses."""
    named = op.get_bind().execute(sa.text("SELECT count(*) FROM event WHERE policy IS NOT NULL")).scalar()
    if named:
        reason = f"{counted(int(named), 'event')} that name the policy they followed, which it cannot hold"
        raise Conflict(what="catalog", name="schema 0003", reason=reason)
    drop("picture_version", revision)
    drop("picture", revision)
    drop("policy", revision)
    op.drop_column("event", "policy")
