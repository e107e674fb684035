"""A sketch is looked up by one number, its cell, in place of three that left more to compare the more there were."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op
from numpy.typing import NDArray

from w2w_registry.migrations.restating import restated

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEYS = ("key_a", "key_b", "key_c")
KEPT = {
    "version_id": sa.BigInteger(),
    "kind": sa.String(),
    "norm": sa.Double(),
    "data": sa.LargeBinary(),
}
BEFORE = {**KEPT, **dict.fromkeys(KEYS, sa.Double())}
AFTER = {**KEPT, "cell": sa.BigInteger()}
SIZE, PROBES, PART, PARTS = 256, 16, 64, 6
ROWS = 1000


def upgrade() -> None:
    with restated(op.get_bind(), "weights_sketch", ["version_id"], BEFORE, AFTER, "0010"):
        op.drop_index("ix_weights_sketch_key_a", "weights_sketch")
        op.add_column("weights_sketch", sa.Column("cell", BIGINT, nullable=True))
        signs = mixers()
        _fill(["cell"], lambda values, norm: [cell(values, norm, signs)])
        with op.batch_alter_table("weights_sketch") as batch:
            batch.alter_column("cell", existing_type=BIGINT, nullable=False)
            for key in KEYS:
                batch.drop_column(key)
        op.create_index("ix_weights_sketch_cell", "weights_sketch", ["cell"])


def downgrade() -> None:
    with restated(op.get_bind(), "weights_sketch", ["version_id"], AFTER, BEFORE, "0009"):
        op.drop_index("ix_weights_sketch_cell", "weights_sketch")
        for key in KEYS:
            op.add_column("weights_sketch", sa.Column(key, sa.Double(), nullable=True))
        # The releases before knew sketches of float32 alone
        _fill(["data", *KEYS], lambda values, norm: [values.astype("<f4").tobytes(), *keys(values, norm)])
        with op.batch_alter_table("weights_sketch") as batch:
            for key in KEYS:
                batch.alter_column(key, existing_type=sa.Double(), nullable=False)
            batch.drop_column("cell")
        op.create_index("ix_weights_sketch_key_a", "weights_sketch", ["key_a"])


def _fill(columns: Sequence[str], of: Any) -> None:
    """Set ``columns`` of every row to what ``of`` makes of its floats (``SIZE``,) and norm."""
    connection = op.get_bind()
    said = ", ".join(f"{column} = :{column}" for column in columns)
    change = sa.text(f"UPDATE weights_sketch SET {said} WHERE version_id = :version_id")
    page = sa.text("SELECT version_id, norm, data FROM weights_sketch WHERE version_id > :last ORDER BY 1 LIMIT :rows")
    last = 0
    while rows := connection.execute(page, {"last": last, "rows": ROWS}).all():
        last = rows[-1][0]
        made = []
        for version_id, norm, data in rows:
            if len(data) == SIZE + 4:  # stored by a later release: a step, and whole numbers of it
                floats = np.frombuffer(data, np.int8, SIZE, 4) * np.frombuffer(data, "<f4", 1)
            else:
                floats = np.frombuffer(data, "<f4")
            values = np.resize(floats.astype(np.float64), SIZE)
            made.append({"version_id": version_id, **dict(zip(columns, of(values, norm), strict=True))})
        connection.execute(change, made)


def keys(values: NDArray[np.float64], norm: float) -> list[float]:
    parts = [part[0] for part in np.array_split(np.arange(SIZE), len(KEYS))]
    sums = np.add.reduceat(values, parts)
    return [0.0] * len(KEYS) if norm <= 0 else (sums / (norm * np.sqrt(SIZE / len(KEYS)))).tolist()


def cell(values: NDArray[np.float64], norm: float, mixers: NDArray[np.float64]) -> int:
    mixed = (values @ mixers * np.sqrt(SIZE / PROBES) / max(norm, 1e-300)).reshape(PARTS, PART)
    number = 0
    for part in mixed:
        place = int(np.abs(part).argmax())
        number = number * 2 * PART + 2 * place + int(part[place] < 0)
    return number


def mixers() -> NDArray[np.float64]:
    stream = hashlib.shake_256(b"w2w sketch rademacher-256x16 cells").digest(2 * SIZE // 8)
    signs = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(2, SIZE, 1) * 2.0 - 1.0
    matrix = np.ones((1, 1))
    while len(matrix) < SIZE:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(np.concatenate(signs * matrix, axis=1)[:, : PARTS * PART] / np.sqrt(SIZE))
