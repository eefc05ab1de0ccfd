"""Alembic's entry: run the migrations on the connection that ``Database`` hands over."""

from alembic import context

from lcl_core.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # both databases roll a failed migration back whole
    transaction_per_migration=True,  # an index that is created CONCURRENTLY ends the transaction before it
)
with context.begin_transaction():
    context.run_migrations()
