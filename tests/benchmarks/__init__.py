"""Measurements of the hot paths, as ratios to a floor of the same run. Run: ``python -m tests.benchmarks``."""
