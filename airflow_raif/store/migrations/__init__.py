"""Alembic's scripts for the store's tables."""
