"""Alembic's migrations of the registry's tables."""
