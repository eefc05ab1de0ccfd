"""Alembic's entry: run the migrations on the connection that ``Database`` hands over, in its transaction."""

from alembic import context

from lcl_core.db.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
