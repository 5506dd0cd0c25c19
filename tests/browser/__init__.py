"""The pages in a browser, on a real Airflow with batches of every kind."""
