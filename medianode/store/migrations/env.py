"""Alembic's environment: runs on the connection, inside the transaction and under the lock that `store.database` holds."""

from alembic import context

from medianode.store.schema import metadata

connection = context.config.attributes["connection"]
# SQLite alters a table by copying it: render_as_batch.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
