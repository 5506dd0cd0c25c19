"""The main job, offline: real Airflow components run the nightly example DAG against the emulator."""
