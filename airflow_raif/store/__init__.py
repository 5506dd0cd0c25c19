"""The metadata tables: schema, queries, migrations. Knows no provider and no Airflow."""
