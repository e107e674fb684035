"""Runs migrations on the connection that ``w2w_registry.catalog.schema`` hands over."""

from alembic import context

from w2w_registry.catalog.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,  # on SQLite too: the engine begins transactions itself
)
with context.begin_transaction():
    context.run_migrations()
