"""Versions that are held until somebody has decided whom they depict, and those decisions."""

import sqlalchemy as sa
from alembic import op

from w2w_registry.errors import Conflict
from w2w_registry.migrations.restating import drop
from w2w_registry.records import counted

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
BEFORE = ("active", "blocked", "removed", "erased")
AFTER = (*BEFORE, "held")


def upgrade() -> None:
    _states(BEFORE, AFTER)
    op.create_table(
        "hold",
        sa.Column("id", BIGINT, nullable=False),
        sa.Column("version_id", BIGINT, nullable=False),
        sa.Column("like_id", BIGINT, nullable=True),
        sa.Column("by", WORDS, nullable=False),
        sa.Column("why", WORDS, nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("false_alarm", sa.Double(), nullable=True),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("resolved", MOMENT, nullable=True),
        sa.Column("resolver", WORDS, nullable=True),
        sa.Column("outcome", WORDS, nullable=True),
        sa.Column("same_as", BIGINT, nullable=True),
        sa.Column("reason", WORDS, nullable=True),
        sa.Column("before", sa.String(), nullable=True),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hold"),
        sa.ForeignKeyConstraint(["version_id"], ["version.id"], name="fk_hold_version_id_version"),
        sa.ForeignKeyConstraint(["like_id"], ["version.id"], name="fk_hold_like_id_version"),
        sa.ForeignKeyConstraint(["same_as"], ["version.id"], name="fk_hold_same_as_version"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_hold_version_id", "hold", ["version_id"])
    op.create_index("ix_hold_resolved", "hold", ["resolved"])


def downgrade() -> None:
    """Held versions cannot be told in the older schema, and would be served there: while there are any, this
    refuses."""
    left = op.get_bind().execute(sa.text("SELECT count(*) FROM version WHERE state = 'held'")).scalar()
    if left:
        raise Conflict(
            what="catalog",
            name="schema 0008",
            reason=f"{counted(int(left), 'version')} held until somebody decides, which it cannot hold",
        )
    op.drop_index("ix_hold_resolved", "hold")
    op.drop_index("ix_hold_version_id", "hold")
    drop("hold", revision)
    _states(AFTER, BEFORE)


def _states(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """Let ``version.state`` be one of ``new``."""
    connection = op.get_bind()
    allowed = {words: "state IN ({})".format(", ".join(f"'{word}'" for word in words)) for words in (old, new)}
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql("ALTER TABLE version DROP CONSTRAINT ck_version_state")
        connection.exec_driver_sql(f"ALTER TABLE version ADD CONSTRAINT ck_version_state CHECK ({allowed[new]})")
        return
    # As in 0002: SQLite cannot alter a constraint, and only that changes, not what is on disk.
    text: str = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'version'").scalar_one()
    assert text.count(allowed[old]) == 1
    text = text.replace(allowed[old], allowed[new])
    number: int = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = 'version'", (text,))
    connection.exec_driver_sql(f"PRAGMA schema_version = {number + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
