"""Alembic environment of the database; ``lcl_core.db.session.Database.migrate`` runs it."""
