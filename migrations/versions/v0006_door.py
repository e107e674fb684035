"""References of a likeness that no weight space holds: of its weights sketch."""

import re

import sqlalchemy as sa
from alembic import op

from w2w_registry.errors import Conflict
from w2w_registry.records import counted

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _nullable(True)


def downgrade() -> None:
    """References without a space cannot be told in the older schema: while there are any, this refuses."""
    left = op.get_bind().execute(sa.text("SELECT count(*) FROM guard_reference WHERE space_id IS NULL")).scalar()
    if left:
        raise Conflict(
            what="catalog",
            name="schema 0005",
            reason=f"{counted(int(left), 'reference')} of people who refused, in no weight space, which it cannot hold",
        )
    _nullable(False)


def _nullable(yes: bool) -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        op.alter_column("guard_reference", "space_id", nullable=yes)
        return
    # As in 0002: SQLite cannot alter a column, and only the constraint changes, not what is on disk.
    find = "SELECT sql FROM sqlite_master WHERE name = 'guard_reference'"
    text: str = connection.exec_driver_sql(find).scalar_one()
    pattern = r"(\bspace_id \w+)" + (" NOT NULL" if yes else "(?! NOT NULL)")
    text, changed = re.subn(pattern, r"\1" if yes else r"\1 NOT NULL", text)
    assert changed == 1
    number: int = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql(
        "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = 'guard_reference'", (text,)
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {number + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
