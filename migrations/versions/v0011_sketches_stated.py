"""State anew the sketches that 0010 altered without saying so.

0010 once took the digests of floating-point columns in a form no event has, so it found no row sound and stated none:
`audit verify` then reported every sketch as edited. What 0010 dropped follows from what is left; a row that had the
digest the log names before, and has the cell that its floats give, is stated now. A row edited by hand stays found.
"""

from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import NullType

from w2w_registry.migrations.restating import claims, digest_as, state
from w2w_registry.migrations.versions import v0010_sketch_cells as cells

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLE = "weights_sketch"


def upgrade() -> None:
    connection = op.get_bind()
    claimed, mixers = claims(connection, TABLE), cells.mixers()
    stated = {}
    query = sa.select(*(sa.column(name, NullType()) for name in cells.AFTER)).select_from(sa.table(TABLE))
    for row in connection.execute(query.order_by(sa.column("version_id"))).mappings():
        key, now = str(row["version_id"]), digest_as(TABLE, row, cells.AFTER)
        if claimed.get(key) not in (None, now) and claimed[key] == _before(row, mixers):
            stated[key] = now
    state(connection, TABLE, stated, revision)


def downgrade() -> None:
    """Nothing in the tables differs."""


def _before(row: Any, mixers: Any) -> str | None:
    """The digest the row had before 0010; None for one whose columns do not belong together."""
    try:
        values = np.resize(np.frombuffer(row["data"], "<f4").astype(np.float64), cells.SIZE)
        keys, cell = cells.keys(values, row["norm"]), cells.cell(values, row["norm"], mixers)
    except (TypeError, ValueError):
        return None
    return (
        digest_as(TABLE, {**row, **dict(zip(cells.KEYS, keys, strict=True))}, cells.BEFORE)
        if cell == row["cell"]
        else None
    )
