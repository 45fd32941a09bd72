"""Alembic's entry: the connection comes from `Archive.migrate`, never from a file with a password in it."""

from alembic import context
from sqlmodel import SQLModel

import starloom.archive.models  # noqa: F401 - fills the metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    # SQLite cannot alter most things; batch mode copies the table (and drops its triggers: hence re-applied).
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
