"""Versions that no weight space holds: no space, perhaps no known base model, another kind of adapter."""

import re

import sqlalchemy as sa
from alembic import op

from w2w_registry.errors import Conflict
from w2w_registry.records import counted

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WORDS = sa.String().with_variant(sa.String(collation="C"), "postgresql")
OPTIONAL = ("space_id", "base_model")


def upgrade() -> None:
    op.add_column("version", sa.Column("adapter", WORDS, nullable=True))
    _nullable(True)


def downgrade() -> None:
    """Versions without a space cannot be told in the older schema: while there are any, this refuses."""
    found = op.get_bind().execute(
        sa.text("SELECT count(*) FROM version WHERE space_id IS NULL OR base_model IS NULL OR adapter IS NOT NULL")
    )
    left = found.scalar()
    if left:
        raise Conflict(
            what="catalog",
            name="schema 0001",
            reason=f"{counted(int(left), 'version')} in no weight space, or no plain LoRA, which it cannot hold",
        )
    _nullable(False)
    op.drop_column("version", "adapter")


def _nullable(yes: bool) -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        for column in OPTIONAL:
            op.alter_column("version", column, nullable=yes)
        return
    # SQLite cannot alter a column, and copying the table would break the references to it. Only the constraint changes,
    # not what is on disk: for that its documentation (lang_altertable, "Making Other Kinds Of Table Schema Changes")
    # gives this way.
    text: str = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'version'").scalar_one()
    for column in OPTIONAL:
        pattern = rf"(\b{column} \w+)" + (" NOT NULL" if yes else "(?! NOT NULL)")
        text, changed = re.subn(pattern, r"\1" if yes else r"\1 NOT NULL", text)
        assert changed == 1, column
    number: int = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = 'version'", (text,))
    connection.exec_driver_sql(f"PRAGMA schema_version = {number + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
