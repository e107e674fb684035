"""Fewer random pages a row: no index of event hashes, which nothing looks up, and none of what is NULL.

A hash is taken over its event's number and the hash before, so that two alike are two events of one number, which the
primary key forbids; verification recomputes every one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

PARTIAL = (
    ("ix_operation_input_version_id_operation_id", "operation_input", ["version_id", "operation_id"]),
    ("ix_version_artifact_digest", "version", ["artifact_digest"]),
    ("ix_version_preview_digest", "version", ["preview_digest"]),
    ("ix_version_manifest_digest", "version", ["manifest_digest"]),
)


def upgrade() -> None:
    with triggers_kept("event"), op.batch_alter_table("event") as batch:
        batch.drop_constraint("uq_event_hash", type_="unique")
    for name, table, columns in PARTIAL:
        op.drop_index(name, table)
        given = sa.text(f"{columns[0]} IS NOT NULL")
        op.create_index(name, table, columns, sqlite_where=given, postgresql_where=given)


def downgrade() -> None:
    for name, table, columns in PARTIAL:
        op.drop_index(name, table)
        op.create_index(name, table, columns)
    with triggers_kept("event"), op.batch_alter_table("event") as batch:
        batch.create_unique_constraint("uq_event_hash", ["hash"])


@contextmanager
def triggers_kept(table: str) -> Iterator[None]:
    """SQLite alters a table by writing it anew, which drops its triggers."""
    connection = op.get_bind()
    found: list[str] = []
    if connection.dialect.name == "sqlite":
        query = sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :of ORDER BY name")
        found = list(connection.execute(query, {"of": table}).scalars())
    yield
    for statement in found:
        op.execute(sa.DDL(statement.replace("%", "%%")))
