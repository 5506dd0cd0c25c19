"""Whole batch lives under every fault that a nightly run meets in a year."""
