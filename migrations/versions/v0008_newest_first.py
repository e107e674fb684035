"""An index of versions by the moment they were made: the newest are then the first met, not the end of a sort."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_version_created", "version", ["created"])


def downgrade() -> None:
    op.drop_index("ix_version_created", "version")
