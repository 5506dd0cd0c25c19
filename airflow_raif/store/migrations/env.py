"""Alembic's entry: runs the scripts on the connection it is given."""

from alembic import context

from airflow_raif.store.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
